package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// Metrics of others that alerts may use.
var others = map[string]bool{"up": true, "apiserver_admission_webhook_rejection_count": true}

// metrics checks the PromQL of alerts and dashboard, and that each metric of ours in it is registered in the sources.
func metrics(chart, repository string) error {
	known, err := registered(repository)
	if err != nil {
		return err
	}
	queries, err := alerts(filepath.Join(chart, "files/alerts.yaml"))
	if err != nil {
		return err
	}
	panels, err := panels(filepath.Join(chart, "files/dashboard.json"))
	if err != nil {
		return err
	}
	var problems []error
	for where, query := range panels {
		queries[where] = query
	}
	for where, query := range queries {
		// Grafana puts these in.
		query = strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*").Replace(query)
		expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", where, err))
			continue
		}
		for _, selectors := range parser.ExtractSelectors(expression) {
			for _, selector := range selectors {
				if selector.Name == labels.MetricName && !known[stem(selector.Value)] && !others[selector.Value] {
					problems = append(problems, fmt.Errorf("%s: there is no metric %s", where, selector.Value))
				}
			}
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	fmt.Printf("%d queries parse, and ask for metrics that exist\n", len(queries))
	return nil
}

// stem is the name by which a metric is registered: without what OpenMetrics adds for its type.
func stem(name string) string {
	for _, suffix := range []string{"_total", "_bucket", "_count", "_sum"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

var registration = regexp.MustCompile(`register(_with_unit|_gauge|_counter)?\(\s*"([a-z_]+)",\s*"`)

// registered collects the names that Rust sources register.
func registered(repository string) (map[string]bool, error) {
	known := map[string]bool{}
	for _, directory := range []string{"crates/telemetry/src", "csi-driver/src", "sidecar/src", "injector/src"} {
		err := filepath.WalkDir(filepath.Join(repository, directory), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".rs") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, match := range registration.FindAllStringSubmatch(string(text), -1) {
				name := "keyward_" + strings.TrimPrefix(match[2], "keyward_")
				if match[1] == "_with_unit" {
					name += "_seconds"
				}
				known[name] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(known) < 10 {
		return nil, fmt.Errorf("only %d metrics found in the sources: has the way to register them changed?", len(known))
	}
	return known, nil
}

func alerts(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rules []struct {
		Alert       string            `json:"alert"`
		Expr        string            `json:"expr"`
		For         string            `json:"for"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := yaml.UnmarshalStrict(text, &rules); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	queries := map[string]string{}
	for _, rule := range rules {
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			return nil, fmt.Errorf("%s: %s needs a severity, a summary and a description", path, rule.Alert)
		}
		queries["alert "+rule.Alert] = rule.Expr
	}
	return queries, nil
}

func panels(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr  string `json:"expr"`
				RefID string `json:"refId"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	queries := map[string]string{}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries[fmt.Sprintf("panel %q %s", panel.Title, target.RefID)] = target.Expr
		}
	}
	if len(queries) == 0 {
		return nil, fmt.Errorf("%s has no query", path)
	}
	return queries, nil
}
