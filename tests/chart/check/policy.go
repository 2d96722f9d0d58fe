package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// world is an API server, as far as two policies are concerned.
type world struct {
	mutating, validating compiled
}

func newWorld(manifest string) (*world, error) {
	objects, err := decode(manifest)
	if err != nil {
		return nil, err
	}
	var found world
	for _, object := range objects {
		switch object := object.(type) {
		case *admissionregistration.MutatingAdmissionPolicy:
			found.mutating, err = compileMutating(object)
		case *admissionregistration.ValidatingAdmissionPolicy:
			if object.Name == injectorPolicy {
				found.validating, err = compileValidating(object)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if found.mutating.compiler == nil || found.validating.compiler == nil {
		return nil, fmt.Errorf("%s does not have both policies", manifest)
	}
	return &found, nil
}

var pods = core.SchemeGroupVersion.WithResource("pods")

func request(pod *core.Pod) *admission.VersionedAttributes {
	kind := core.SchemeGroupVersion.WithKind("Pod")
	attributes := admission.NewAttributesRecord(pod, nil, kind, pod.Namespace, pod.Name, pods, "", admission.Create, &metav1.CreateOptions{}, false, nil)
	return &admission.VersionedAttributes{Attributes: attributes, VersionedKind: kind, VersionedObject: pod}
}

// admit gives the pod as it is stored, or the refusal.
func (w *world) admit(pod *core.Pod) (*core.Pod, string, error) {
	namespace := &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace}}
	matched := w.mutating.matcher.Match(w.mutating.compiler.CreateContext(context.Background()), request(pod), nil, nil)
	if matched.Error != nil {
		return nil, "", fmt.Errorf("match conditions: %w", matched.Error)
	}
	if matched.Matches {
		ctx := w.mutating.compiler.CreateContext(context.Background())
		for number, patcher := range w.mutating.patchers {
			result, err := patcher.Patch(ctx, patch.Request{
				MatchedResource:     pods,
				VersionedAttributes: request(pod),
				ObjectInterfaces:    admission.NewObjectInterfacesFromScheme(scheme.Scheme),
				OptionalVariables:   plugincel.OptionalVariableBindings{},
				Namespace:           namespace,
			}, celconfig.RuntimeCELCostBudget)
			if err != nil {
				return nil, "", fmt.Errorf("mutation %d: %w", number+1, err)
			}
			pod = result.(*core.Pod)
		}
	}
	ctx := w.validating.compiler.CreateContext(context.Background())
	result := w.validating.validator.Validate(ctx, pods, request(pod), nil, namespace, celconfig.RuntimeCELCostBudget, nil)
	var refusals []string
	for _, decision := range result.Decisions {
		switch {
		case decision.Evaluation == validating.EvalError:
			return nil, "", fmt.Errorf("validation: %s", decision.Message)
		case decision.Action == validating.ActionDeny:
			refusals = append(refusals, decision.Message)
		}
	}
	return pod, strings.Join(refusals, "\n"), nil
}

func readPod(path string) (*core.Pod, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pod := &core.Pod{}
	if err := yaml.UnmarshalStrict(text, pod); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return pod, nil
}

func policy(manifest, directory string) error {
	w, err := newWorld(manifest)
	if err != nil {
		return err
	}
	cases, err := filepath.Glob(filepath.Join(directory, "*.pod.yaml"))
	if err != nil {
		return err
	}
	if len(cases) == 0 {
		return fmt.Errorf("no pod in %s", directory)
	}
	var problems []error
	for _, path := range cases {
		problems = append(problems, prefix(path, w.compare(path)))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	fmt.Printf("%d pods come out of the policies as they should\n", len(cases))
	return nil
}

func (w *world) compare(path string) error {
	stem := strings.TrimSuffix(path, ".pod.yaml")
	pod, err := readPod(path)
	if err != nil {
		return err
	}
	admitted, refusal, err := w.admit(pod.DeepCopy())
	if err != nil {
		return err
	}
	if reason, err := os.ReadFile(stem + ".refused"); err == nil {
		if refusal != strings.TrimSpace(string(reason)) {
			return fmt.Errorf("refused with %q, and not with %q", refusal, reason)
		}
		return nil
	}
	if refusal != "" {
		return fmt.Errorf("refused: %s", refusal)
	}
	wanted, err := readPod(stem + ".csi.yaml")
	if err != nil {
		return err
	}
	if err := same(wanted, admitted); err != nil {
		return err
	}
	// What another plug-in changes later brings the pod back here.
	again, _, err := w.admit(admitted.DeepCopy())
	if err != nil {
		return fmt.Errorf("the second time: %w", err)
	}
	return prefix("the second time", same(admitted, again))
}

func same(wanted, got *core.Pod) error {
	var sides [2]map[string]any
	for i, pod := range []*core.Pod{wanted, got} {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
		if err != nil {
			return err
		}
		delete(object, "status")
		delete(object, "apiVersion")
		delete(object, "kind")
		sides[i] = object
	}
	if reflect.DeepEqual(sides[0], sides[1]) {
		return nil
	}
	text, err := yaml.Marshal(sides[1])
	if err != nil {
		return err
	}
	return fmt.Errorf("another pod:\n%s", text)
}
