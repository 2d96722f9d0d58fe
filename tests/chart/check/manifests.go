package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	rbac "k8s.io/api/rbac/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	sigsyaml "sigs.k8s.io/yaml"
)

// Kinds that no Go module describes without half a controller in its tow: the fields that the chart may set.
var foreign = map[string]map[string]bool{
	"cert-manager.io/v1, Kind=Issuer":      {"selfSigned": true},
	"cert-manager.io/v1, Kind=Certificate": {"secretName": true, "dnsNames": true, "usages": true, "privateKey": true, "issuerRef": true},
}

func newScheme() (*runtime.Scheme, error) {
	all := runtime.NewScheme()
	return all, errors.Join(scheme.AddToScheme(all), apiextensions.AddToScheme(all), monitoring.AddToScheme(all))
}

// decode reads all documents of a file, strictly: unknown and repeated fields are errors.
func decode(path string) ([]runtime.Object, error) {
	all, err := newScheme()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, all, all, json.SerializerOptions{Yaml: true, Strict: true})
	documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
	buffer := make([]byte, len(text)+1)
	var objects []runtime.Object
	var problems []error
	for number := 1; ; number++ {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects, errors.Join(problems...)
		}
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(withoutComments(string(buffer[:n]))) == "" {
			continue
		}
		object, kind, err := strict.Decode(buffer[:n], nil, nil)
		if runtime.IsNotRegisteredError(err) && kind != nil && foreign[kind.String()] != nil {
			err = decodeForeign(buffer[:n], *kind)
			object = nil
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s, document %d: %w", path, number, err))
			continue
		}
		if object != nil {
			objects = append(objects, object)
		}
	}
}

func withoutComments(text string) string {
	var kept []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "---") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

func decodeForeign(document []byte, kind schema.GroupVersionKind) error {
	var object struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if err := sigsyaml.UnmarshalStrict(document, &object); err != nil {
		return err
	}
	for field := range object.Spec {
		if !foreign[kind.String()][field] {
			return fmt.Errorf("%s has no spec.%s", kind, field)
		}
	}
	return nil
}

func manifests(directory string) error {
	files, err := filepath.Glob(filepath.Join(directory, "*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no manifest in %s", directory)
	}
	var problems []error
	count := 0
	for _, file := range files {
		objects, err := decode(file)
		problems = append(problems, err)
		count += len(objects)
		names := map[string]bool{}
		for _, object := range objects {
			access, err := meta.Accessor(object)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			name := fmt.Sprintf("%T %s/%s", object, access.GetNamespace(), access.GetName())
			if names[name] {
				problems = append(problems, fmt.Errorf("%s: %s is there twice", file, name))
			}
			names[name] = true
			problems = append(problems, prefix(file+": "+name, rights(object)), prefix(file+": "+name, expressions(object)))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	fmt.Printf("%d objects in %d sets of values decode strictly, and their expressions compile\n", count, len(files))
	return nil
}

// rights refuses what the chart promises never to ask for.
func rights(object runtime.Object) error {
	var rules []rbac.PolicyRule
	wide := false
	switch object := object.(type) {
	case *rbac.ClusterRole:
		rules, wide = object.Rules, true
	case *rbac.Role:
		rules = object.Rules
	}
	var problems []error
	for _, rule := range rules {
		for _, word := range append(append(append([]string{}, rule.Verbs...), rule.Resources...), rule.APIGroups...) {
			if strings.Contains(word, "*") {
				problems = append(problems, fmt.Errorf("a rule with %q", word))
			}
		}
		for _, resource := range rule.Resources {
			switch {
			case resource == "secrets" && (wide || len(rule.ResourceNames) == 0):
				problems = append(problems, errors.New("a right on Secrets without a name"))
			case resource == "serviceaccounts/token", resource == "pods/exec", wide && resource == "pods":
				problems = append(problems, fmt.Errorf("a right on %s", resource))
			}
		}
	}
	return errors.Join(problems...)
}

func prefix(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
