package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// The emulated cloud, the API server, kubelet's directories, and the driver between them: another process, which
// answers a line of JSON for each line of text.
type world struct {
	Driver     string            `json:"driver"`
	Socket     string            `json:"socket"`
	KubeletDir string            `json:"kubeletDir"`
	Attributes map[string]string `json:"attributes"`

	mutex   sync.Mutex
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
}

// What kubelet knows of a pod.
type pod struct {
	Namespace      string            `json:"namespace"`
	Name           string            `json:"name"`
	UID            string            `json:"uid"`
	ServiceAccount string            `json:"serviceAccount"`
	Tokens         map[string]string `json:"tokens"`
}

func startWorld(command []string) (*world, error) {
	process := exec.Command(command[0], command[1:]...)
	process.Stderr = os.Stderr
	in, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<20)
	world := &world{process: process, in: in, out: scanner}
	if !scanner.Scan() {
		return nil, fmt.Errorf("the node did not start: %w", process.Wait())
	}
	return world, json.Unmarshal(scanner.Bytes(), world)
}

func (w *world) ask(question string, answer any) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if _, err := fmt.Fprintln(w.in, question); err != nil {
		return err
	}
	if !w.out.Scan() {
		return fmt.Errorf("the node is gone: %w", w.out.Err())
	}
	return json.Unmarshal(w.out.Bytes(), answer)
}

// A pod of this name, with a token of its own that was never used before.
func (w *world) pod(name string) (pod, error) {
	var pod pod
	return pod, w.ask("pod "+name, &pod)
}

func (w *world) mounts() ([]string, error) {
	var answer struct{ Mounts []string }
	return answer.Mounts, w.ask("mounts", &answer)
}

func (w *world) stop() error {
	w.in.Close()
	return w.process.Wait()
}
