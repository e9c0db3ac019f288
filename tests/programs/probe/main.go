// Command probe is what the cluster's own test runs in its pods: it uses what a trainer needs of a node (name, network,
// service addresses, volume, termination message, log) and exits non-zero at the first thing that does not work.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Getenv("JOB_COMPLETION_INDEX"), os.Args[1]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// run has index 0 greet the others at the name peer, and leaves a file, a log line and a termination message.
func run(index, peer string) error {
	if os.Getuid() != 65532 {
		return fmt.Errorf("uid is %d, want 65532", os.Getuid())
	}
	if err := os.WriteFile("/root-is-writable", nil, 0o600); err == nil {
		return fmt.Errorf("the root file system is writable")
	}
	if _, err := dial(net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), "443")); err != nil {
		return fmt.Errorf("ClusterIP of the API server: %w", err)
	}
	greeting, err := greet(index, peer)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join("/out", index+".txt"), []byte(greeting), 0o644); err != nil {
		return err
	}
	fmt.Printf("index %s heard: %s\n", index, greeting)
	return os.WriteFile("/dev/termination-log", []byte("index "+index+" is done"), 0o644)
}

func greet(index, peer string) (string, error) {
	if index != "0" {
		connection, err := dial(net.JoinHostPort(peer, "8080"))
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(connection)
		return string(text), err
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		return "", err
	}
	connection, err := listener.Accept()
	if err != nil {
		return "", err
	}
	defer connection.Close()
	text := "hello from " + strings.Split(peer, ".")[0]
	_, err = io.WriteString(connection, text)
	return text, err
}

// dial tries for a minute: a pod's name resolves only once the pod has an address.
func dial(address string) (net.Conn, error) {
	until := time.Now().Add(time.Minute)
	for {
		connection, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err == nil || time.Now().After(until) {
			return connection, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
