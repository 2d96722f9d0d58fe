package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// docs prints a table of all values: the comment above a value is what it says.
func docs(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Println("| Value | Default | What it does |\n| --- | --- | --- |")
	return rows(document.Content[0], "")
}

func rows(mapping *yaml.Node, above string) error {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		path := above + key.Value
		// A map in block form groups values; one in braces is a value.
		if value.Kind == yaml.MappingNode && value.Style&yaml.FlowStyle == 0 && !isValue(path) {
			if err := rows(value, path+"."); err != nil {
				return err
			}
			continue
		}
		comment := strings.TrimSpace(strings.ReplaceAll(strings.ReplaceAll(key.HeadComment, "\n# ", " "), "# ", ""))
		if comment == "" {
			return fmt.Errorf("%s has no comment above it, which would be its documentation", path)
		}
		var plain any
		if err := value.Decode(&plain); err != nil {
			return err
		}
		encoded, err := json.Marshal(plain)
		if err != nil {
			return err
		}
		fmt.Printf("| `%s` | `%s` | %s |\n", path, encoded, strings.ReplaceAll(comment, "|", "\\|"))
	}
	return nil
}

// isValue says whether a map in block form is one value all the same.
func isValue(path string) bool { return path == "injector.resources" }
