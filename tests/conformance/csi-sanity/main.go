// Runs the specs of github.com/kubernetes-csi/csi-test against the node plugin.
//
// Its specs publish what a controller made, at paths of their own. The node plugin has no controller, and takes
// volumes only where kubelet puts them. So the first of two runs stands between both, as kubelet does in a cluster:
// see bridge.go. The second run has nothing between, and does without the specs that a controller is needed for.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

func main() {
	if len(os.Args) < 4 || (os.Args[1] != "bridged" && os.Args[1] != "direct") {
		fail(fmt.Errorf("usage: csi-sanity bridged|direct SKIPPED WORLD…"))
	}
	mode, skipped, command := os.Args[1], os.Args[2], os.Args[3:]
	expected, err := readSkipped(skipped)
	if err != nil {
		fail(err)
	}
	world, err := startWorld(command)
	if err != nil {
		fail(err)
	}
	work, err := os.MkdirTemp("", "csi-sanity-")
	if err != nil {
		fail(err)
	}
	defer os.RemoveAll(work)

	config := sanity.NewTestConfig()
	config.TargetPath = filepath.Join(work, "mount")
	config.StagingPath = filepath.Join(work, "staging")
	suite, reporter := ginkgo.GinkgoConfiguration()
	bridge := &bridge{}
	if mode == "bridged" {
		if bridge, err = startBridge(world, filepath.Join(work, "csi.sock")); err != nil {
			fail(err)
		}
		config.Address = bridge.address
		config.CheckPath = bridge.checkPath
	} else {
		config.Address = "unix:" + world.Socket
		for name := range expected {
			suite.SkipStrings = append(suite.SkipStrings, pattern(name))
		}
	}

	var report ginkgo.Report
	sanity.GinkgoTest(&config)
	ginkgo.ReportAfterSuite("counts", func(done ginkgo.Report) { report = done })
	gomega.RegisterFailHandler(ginkgo.Fail)
	reporter.Succinct, reporter.NoColor = true, true
	ok := ginkgo.RunSpecs(outcome{}, "CSI Driver Test Suite", suite, reporter)

	// A run that reached nobody would fail nothing.
	if mode == "bridged" && bridge.published == 0 {
		fail(fmt.Errorf("no volume was published"))
	}
	left, err := world.mounts()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("still mounted: %v", left)
	}
	if ended := world.stop(); err == nil {
		err = ended
	}
	if unexpected := summarise(mode, report, expected); err == nil {
		err = unexpected
	}
	if err == nil && !ok {
		err = fmt.Errorf("%s: specs failed", mode)
	}
	if err != nil {
		os.RemoveAll(work)
		fail(err)
	}
}

// The verdict is taken from what RunSpecs returns.
type outcome struct{}

func (outcome) Fail() {}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "csi-sanity:", err)
	os.Exit(1)
}
