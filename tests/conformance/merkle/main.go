// Command merkle checks Keyward's audit log and proofs with the libraries of Go's checksum database and of Certificate
// Transparency. It was written from the log's description in docs/audit.md and shares nothing with the code that writes.
//
// usage: merkle DIRECTORY, which holds audit.jsonl, inclusion.json and consistency.json.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

type line struct {
	Checkpoint string `json:"checkpoint"`
	Log        string `json:"log"`
	Seq        uint64 `json:"seq"`
	Action     string `json:"action"`
	Key        string `json:"key"`
}

type inclusion struct {
	Key        string   `json:"key"`
	Leaf       string   `json:"leaf"`
	Index      uint64   `json:"index"`
	TreeSize   uint64   `json:"tree_size"`
	Hashes     [][]byte `json:"hashes"`
	Checkpoint string   `json:"checkpoint"`
}

type consistency struct {
	Key    string   `json:"key"`
	First  string   `json:"first"`
	Second string   `json:"second"`
	Hashes [][]byte `json:"hashes"`
}

type checkpoint struct {
	origin string
	size   uint64
	root   []byte
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: merkle DIRECTORY")
		os.Exit(64)
	}
	passed, failed := 0, 0
	for _, check := range []func(string) (int, error){checkLog, checkInclusion, checkConsistency} {
		count, err := check(os.Args[1])
		passed += count
		if err != nil {
			failed++
			fmt.Fprintln(os.Stderr, "FAILED:", err)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// checkLog computes the tree over each log's lines and compares it with every checkpoint.
func checkLog(directory string) (int, error) {
	file, err := os.Open(filepath.Join(directory, "audit.jsonl"))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	var tree *compact.Range
	var key, log string
	checked := 0
	scanner := bufio.NewScanner(file)
	for number := 1; scanner.Scan(); number++ {
		var l line
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			return checked, fmt.Errorf("line %d: %w", number, err)
		}
		if l.Checkpoint != "" {
			signed, err := open(l.Checkpoint, key)
			if err != nil {
				return checked, fmt.Errorf("line %d: %w", number, err)
			}
			root, err := tree.GetRootHash(nil)
			if err != nil {
				return checked, fmt.Errorf("line %d: %w", number, err)
			}
			if signed.origin != log || signed.size != tree.End() || !bytes.Equal(signed.root, root) {
				return checked, fmt.Errorf("line %d: the checkpoint does not fit", number)
			}
			checked++
			continue
		}
		if l.Action == "open" {
			tree, key, log = factory.NewEmptyRange(0), l.Key, l.Log
		}
		if l.Log != log || l.Seq != tree.End() {
			return checked, fmt.Errorf("line %d: record %d of %s is out of place", number, l.Seq, l.Log)
		}
		if err := tree.Append(rfc6962.DefaultHasher.HashLeaf(scanner.Bytes()), nil); err != nil {
			return checked, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if checked == 0 {
		return 0, errors.New("there is no checkpoint in the log")
	}
	fmt.Printf("%d checkpoints fit the tree that x/mod and transparency-dev/merkle compute\n", checked)
	return checked, scanner.Err()
}

func checkInclusion(directory string) (int, error) {
	var proofs []inclusion
	if err := read(directory, "inclusion.json", &proofs); err != nil {
		return 0, err
	}
	for number, p := range proofs {
		signed, err := open(p.Checkpoint, p.Key)
		if err != nil {
			return number, err
		}
		leaf := rfc6962.DefaultHasher.HashLeaf([]byte(p.Leaf))
		if signed.size != p.TreeSize {
			return number, fmt.Errorf("proof %d is for another tree than its checkpoint", number)
		}
		verify := func(leaf []byte) error {
			return proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, p.TreeSize, leaf, p.Hashes, signed.root)
		}
		if err := verify(leaf); err != nil {
			return number, fmt.Errorf("proof %d: %w", number, err)
		}
		wrong := sha256.Sum256(leaf)
		if verify(wrong[:]) == nil {
			return number, fmt.Errorf("proof %d proves anything", number)
		}
	}
	fmt.Printf("%d inclusion proofs verify\n", len(proofs))
	return len(proofs), nil
}

func checkConsistency(directory string) (int, error) {
	var proofs []consistency
	if err := read(directory, "consistency.json", &proofs); err != nil {
		return 0, err
	}
	for number, p := range proofs {
		first, err := open(p.First, p.Key)
		if err != nil {
			return number, err
		}
		second, err := open(p.Second, p.Key)
		if err != nil {
			return number, err
		}
		err = proof.VerifyConsistency(rfc6962.DefaultHasher, first.size, second.size, p.Hashes, first.root, second.root)
		if err != nil {
			return number, fmt.Errorf("consistency proof %d: %w", number, err)
		}
	}
	fmt.Printf("%d consistency proofs verify\n", len(proofs))
	return len(proofs), nil
}

// open verifies a signed note with the log's verifier key and reads the checkpoint in it.
func open(text, key string) (*checkpoint, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	opened, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != verifier.Name() {
		return nil, fmt.Errorf("%q is not a checkpoint of %s", opened.Text, verifier.Name())
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return nil, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	return &checkpoint{lines[0], size, root}, err
}

func read(directory, name string, into any) error {
	content, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}
