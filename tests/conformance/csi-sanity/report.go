package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

// Reads the names of specs that may be skipped. A line that begins with # is the reason for those below it.
func readSkipped(path string) (map[string]bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	skipped := map[string]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
			skipped[line] = true
		}
	}
	return skipped, lines.Err()
}

// What ginkgo matches is the file's name, then the spec's.
func pattern(name string) string {
	return regexp.QuoteMeta(name) + "$"
}

// Prints the counts and compares what was skipped with what may be.
func summarise(mode string, report ginkgo.Report, expected map[string]bool) error {
	counts := map[types.SpecState]int{}
	skipped := map[string]bool{}
	controller := 0
	for _, spec := range report.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt {
			continue
		}
		counts[spec.State]++
		if spec.State.Is(types.SpecStateSkipped | types.SpecStatePending) {
			skipped[spec.FullText()] = true
		}
		if spec.State == types.SpecStatePassed && strings.Contains(spec.FullText(), "[Controller Server]") {
			controller++
		}
	}
	failed := 0
	for state, count := range counts {
		if state.Is(types.SpecStateFailureStates) {
			failed += count
		}
	}
	fmt.Printf("\n%s: %d passed (%d of them ask only the harness's controller), %d failed, %d skipped\n",
		mode, counts[types.SpecStatePassed], controller, failed, len(skipped))
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		if !expected[name] {
			wrong = append(wrong, "skipped without a reason in the list: "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		if !skipped[name] {
			wrong = append(wrong, "in the list, but not skipped: "+name)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s", strings.Join(wrong, "\n"))
	}
	if failed > 0 || counts[types.SpecStatePassed] == 0 {
		return fmt.Errorf("%s: %d specs failed", mode, failed)
	}
	return nil
}
