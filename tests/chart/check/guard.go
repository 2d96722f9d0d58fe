package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	driverAccount = "system:serviceaccount:keyward-system:keyward-csi-driver"
	nodeClaim     = "authentication.kubernetes.io/node-name"
	nodeLabel     = "internal.secrets-store.csi.k8s.io/node-name"
)

var (
	events   = schema.GroupVersionResource{Group: "events.k8s.io", Version: "v1", Resource: "events"}
	statuses = schema.GroupVersionResource{Group: "secrets-store.csi.x-k8s.io", Version: "v1", Resource: "secretproviderclasspodstatuses"}
)

type object map[string]any

// event is one as the driver on a node writes it.
func event(instance string, changes ...object) object {
	made := object{
		"apiVersion": "events.k8s.io/v1", "kind": "Event",
		"metadata":            map[string]any{"name": "web.1", "namespace": "shop"},
		"reportingController": "csi.keyward.dev", "reportingInstance": instance,
		"regarding": map[string]any{"kind": "Pod", "name": "web", "namespace": "shop"},
	}
	for _, change := range changes {
		for key, value := range change {
			made[key] = value
		}
	}
	return made
}

// status is one as the driver on a node writes it.
func status(label string) object {
	metadata := map[string]any{"name": "web-shop-vault", "namespace": "shop"}
	if label != "" {
		metadata["labels"] = map[string]any{nodeLabel: label, "kept": "yes"}
	}
	return object{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassPodStatus",
		"metadata": metadata, "status": map[string]any{"mounted": true},
	}
}

// long is a node's name that is too long for a label.
var long = strings.Repeat("node-", 12) + "example.com"

// A request, and the word of its refusal, if it is one.
var guarded = []struct {
	what        string
	resource    schema.GroupVersionResource
	subresource string
	user        string
	nodes       []string
	old, new    object
	refused     string
}{
	{"an event", events, "", driverAccount, []string{"n1"}, nil, event("n1"), ""},
	{"its series", events, "", driverAccount, []string{"n1"}, event("n1"), event("n1", object{"series": map[string]any{"count": int64(2)}}), ""},
	{"an event of a node with a long name", events, "", driverAccount, []string{strings.Repeat("n", 200)}, nil, event(strings.Repeat("n", 128)), ""},
	{"another node's event", events, "", driverAccount, []string{"n1"}, nil, event("n2"), "its own node"},
	{"another node's event, changed", events, "", driverAccount, []string{"n1"}, event("n2"), event("n1"), "has not written"},
	{"another node's event, changed in its name", events, "", driverAccount, []string{"n1"}, event("n2"), event("n2"), "its own node"},
	{"somebody else's event, changed", events, "", driverAccount, []string{"n1"}, event("n1", object{"reportingController": "kubelet"}), event("n1"), "has not written"},
	{"an event in kubelet's name", events, "", driverAccount, []string{"n1"}, nil, event("n1", object{"reportingController": "kubelet"}), "in its own name"},
	{"an event about a node", events, "", driverAccount, []string{"n1"}, nil, event("n1", object{"regarding": map[string]any{"kind": "Node", "name": "n2"}}), "about pods"},
	{"an event that moves to another pod", events, "", driverAccount, []string{"n1"}, event("n1"), event("n1", object{"regarding": map[string]any{"kind": "Pod", "name": "other", "namespace": "shop"}}), "has not written"},
	{"an event with a token of no node", events, "", driverAccount, nil, nil, event(""), "its own node"},
	{"an event with a token of two nodes", events, "", driverAccount, []string{"n1", "n2"}, nil, event("n1"), "its own node"},
	{"kubelet's event", events, "", "system:node:n1", nil, nil, event("n1", object{"reportingController": "kubelet"}), ""},
	{"a status", statuses, "", driverAccount, []string{"n1"}, nil, status("n1"), ""},
	{"a status, changed", statuses, "", driverAccount, []string{"n1"}, status("n1"), status("n1"), ""},
	{"a status through its subresource", statuses, "status", driverAccount, []string{"n1"}, status("n1"), status("n1"), ""},
	{"a status of a node with a long name", statuses, "", driverAccount, []string{long}, nil, status(long[:46] + "-0123456789abcdef"), ""},
	{"a status of a node with a long name, by another", statuses, "", driverAccount, []string{"x" + long}, nil, status(long[:46] + "-0123456789abcdef"), "its own node"},
	{"a status with a short beginning", statuses, "", driverAccount, []string{long}, nil, status("node-0123456789abcdef"), "its own node"},
	{"another node's status", statuses, "", driverAccount, []string{"n1"}, nil, status("n2"), "its own node"},
	{"another node's status, taken over", statuses, "", driverAccount, []string{"n1"}, status("n2"), status("n1"), "another node"},
	{"another node's status through its subresource", statuses, "status", driverAccount, []string{"n1"}, status("n2"), status("n2"), "its own node"},
	{"a status without a node", statuses, "", driverAccount, []string{"n1"}, nil, status(""), "its own node"},
	{"a status with a token of no node", statuses, "", driverAccount, nil, nil, status("n1"), "its own node"},
	{"the status of another driver", statuses, "", "system:serviceaccount:kube-system:secrets-store-csi-driver", nil, nil, status("n2"), ""},
}

// guard checks what the driver may report, by the policies of a rendered chart.
func guard(manifest string) error {
	objects, err := decode(manifest)
	if err != nil {
		return err
	}
	policies := map[string]compiled{}
	for _, object := range objects {
		policy, is := object.(*admissionregistration.ValidatingAdmissionPolicy)
		if !is || !strings.HasPrefix(policy.Name, "keyward-csi-driver-") {
			continue
		}
		made, err := compileValidating(policy)
		if err != nil {
			return err
		}
		for _, rule := range policy.Spec.MatchConstraints.ResourceRules {
			for _, resource := range rule.Resources {
				policies[rule.APIGroups[0]+"/"+resource] = made
			}
		}
	}
	var problems []error
	for _, try := range guarded {
		resource := try.resource.Group + "/" + try.resource.Resource
		if try.subresource != "" {
			resource += "/*"
		}
		policy, found := policies[resource]
		if !found {
			return fmt.Errorf("%s has no policy for %s", manifest, resource)
		}
		operation := admission.Create
		var old runtime.Object
		if try.old != nil {
			operation, old = admission.Update, &unstructured.Unstructured{Object: try.old}
		}
		who := &user.DefaultInfo{Name: try.user}
		if try.nodes != nil {
			who.Extra = map[string][]string{nodeClaim: try.nodes}
		}
		made := &unstructured.Unstructured{Object: try.new}
		kind := made.GroupVersionKind()
		attributes := admission.NewAttributesRecord(made, old, kind, made.GetNamespace(), made.GetName(), try.resource, try.subresource, operation, &metav1.CreateOptions{}, false, who)
		versioned := &admission.VersionedAttributes{Attributes: attributes, VersionedKind: kind, VersionedObject: made, VersionedOldObject: old}
		namespace := &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
		ctx := policy.compiler.CreateContext(context.Background())
		result := policy.validator.Validate(ctx, try.resource, versioned, nil, namespace, celconfig.RuntimeCELCostBudget, nil)
		var refusals []string
		for _, decision := range result.Decisions {
			switch {
			case decision.Evaluation == validating.EvalError:
				problems = append(problems, fmt.Errorf("%s: %s", try.what, decision.Message))
			case decision.Action == validating.ActionDeny:
				refusals = append(refusals, decision.Message)
			}
		}
		said := strings.Join(refusals, "; ")
		if (try.refused == "") != (said == "") || !strings.Contains(said, try.refused) {
			problems = append(problems, fmt.Errorf("%s: refused with %q, and not with %q", try.what, said, try.refused))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	fmt.Printf("%d reports of the driver are judged as they should be\n", len(guarded))
	return nil
}
