// Command check looks at what the chart renders: every object decodes strictly into the types of the Kubernetes version
// that is named in go.mod, every CEL expression compiles as in its API server, the policies make of pods what the injector
// makes of them, and alerts and dashboard ask for metrics that exist.
//
//	check manifests DIRECTORY          rendered manifests
//	check policy MANIFEST DIRECTORY    pods through the policies; DIRECTORY has NAME.pod.yaml, and NAME.csi.yaml or NAME.refused
//	check guard MANIFEST               what the driver may report of which node
//	check metrics CHART REPOSITORY     alerts and dashboard against the metrics in the sources
//	check docs VALUES                  docs/chart.md, on standard output
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch args := os.Args[2:]; {
	case os.Args[1] == "manifests" && len(args) == 1:
		err = manifests(args[0])
	case os.Args[1] == "policy" && len(args) == 2:
		err = policy(args[0], args[1])
	case os.Args[1] == "guard" && len(args) == 1:
		err = guard(args[0])
	case os.Args[1] == "metrics" && len(args) == 2:
		err = metrics(args[0], args[1])
	case os.Args[1] == "docs" && len(args) == 1:
		err = docs(args[0])
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: check manifests DIRECTORY | policy MANIFEST DIRECTORY | guard MANIFEST | metrics CHART REPOSITORY | docs VALUES")
	os.Exit(64)
}
