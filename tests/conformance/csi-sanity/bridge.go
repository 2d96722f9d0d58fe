package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const volumeName = "secrets"

// Stands where kubelet stands. Every volume of the specs becomes the inline volume of a pod of its own: its id, its
// target, and what kubelet adds to the context (pkg/volume/csi/csi_mounter.go). Nothing that the driver answers is
// changed; only that there is a controller is added to it.
type bridge struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	world    *world
	identity csi.IdentityClient
	node     csi.NodeClient
	address  string

	mutex sync.Mutex
	// Where what a spec published at a path really is.
	targets map[string]string
	// How often the driver said yes.
	published int
}

func startBridge(world *world, socket string) (*bridge, error) {
	connection, err := grpc.NewClient("unix:"+world.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	bridge := &bridge{
		world:    world,
		identity: csi.NewIdentityClient(connection),
		node:     csi.NewNodeClient(connection),
		address:  "unix:" + socket,
		targets:  map[string]string{},
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, bridge)
	csi.RegisterNodeServer(server, bridge)
	csi.RegisterControllerServer(server, &controller{attributes: world.Attributes, volumes: map[string]*csi.Volume{}})
	go server.Serve(listener)
	return bridge, nil
}

// What kubelet calls a volume of the specs, and where it puts it. What is missing stays missing.
func (b *bridge) translate(id, path string) (pod, string, string, error) {
	name := id
	if name == "" {
		name = "nobody"
	}
	pod, err := b.world.pod(strings.ToLower(name))
	if err != nil {
		return pod, "", "", err
	}
	if id != "" {
		sum := sha256.Sum256([]byte(pod.UID + volumeName))
		id = "csi-" + hex.EncodeToString(sum[:])
	}
	if filepath.Base(path) == "target" {
		path = filepath.Join(b.world.KubeletDir, "pods", pod.UID, "volumes/kubernetes.io~csi", volumeName, "mount")
	}
	return pod, id, path, nil
}

func (b *bridge) NodePublishVolume(ctx context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	asked := request.TargetPath
	pod, id, path, err := b.translate(request.VolumeId, asked)
	if err != nil {
		return nil, err
	}
	tokens := map[string]map[string]string{}
	for audience, token := range pod.Tokens {
		tokens[audience] = map[string]string{"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}
	}
	document, err := json.Marshal(tokens)
	if err != nil {
		return nil, err
	}
	context := map[string]string{}
	for key, value := range request.VolumeContext {
		context[key] = value
	}
	for key, value := range map[string]string{
		"pod.name": pod.Name, "pod.namespace": pod.Namespace, "pod.uid": pod.UID,
		"serviceAccount.name": pod.ServiceAccount, "ephemeral": "true",
	} {
		context["csi.storage.k8s.io/"+key] = value
	}
	if path != "" {
		if err := b.prepare(path); err != nil {
			return nil, err
		}
		b.mutex.Lock()
		b.targets[asked] = path
		b.mutex.Unlock()
	}
	answer, err := b.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:         id,
		TargetPath:       path,
		VolumeCapability: request.VolumeCapability,
		Readonly:         true,
		Secrets:          map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": string(document)},
		VolumeContext:    context,
	})
	if err == nil {
		b.mutex.Lock()
		b.published++
		b.mutex.Unlock()
	}
	return answer, err
}

// SetUpAt: the directory that the target belongs into, and kubelet's record beside it.
func (b *bridge) prepare(target string) error {
	directory := filepath.Dir(target)
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return err
	}
	record, err := json.Marshal(map[string]string{"driverName": b.world.Driver, "volumeLifecycleMode": "Ephemeral"})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, "vol_data.json"), record, 0o600)
}

func (b *bridge) NodeUnpublishVolume(ctx context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	_, id, path, err := b.translate(request.VolumeId, request.TargetPath)
	if err != nil {
		return nil, err
	}
	return b.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path})
}

func (b *bridge) NodeGetVolumeStats(ctx context.Context, request *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	_, id, path, err := b.translate(request.VolumeId, request.VolumePath)
	if err != nil {
		return nil, err
	}
	return b.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: path})
}

// The answer names the volume that was asked for, which the specs know by another id.
func (b *bridge) NodeGetVolumeHealth(ctx context.Context, request *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	_, id, path, err := b.translate(request.VolumeId, request.VolumePublishPath)
	if err != nil {
		return nil, err
	}
	answer, err := b.node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: id, VolumePublishPath: path})
	if err == nil && answer.GetVolumeHealth().GetVolumeId() == id {
		answer.VolumeHealth.VolumeId = request.VolumeId
	}
	return answer, err
}

func (b *bridge) NodeGetCapabilities(ctx context.Context, request *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return b.node.NodeGetCapabilities(ctx, request)
}

func (b *bridge) NodeGetInfo(ctx context.Context, request *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return b.node.NodeGetInfo(ctx, request)
}

func (b *bridge) GetPluginInfo(ctx context.Context, request *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return b.identity.GetPluginInfo(ctx, request)
}

func (b *bridge) Probe(ctx context.Context, request *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return b.identity.Probe(ctx, request)
}

func (b *bridge) GetPluginCapabilities(ctx context.Context, request *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	answer, err := b.identity.GetPluginCapabilities(ctx, request)
	if err == nil {
		answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
			Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
		}})
	}
	return answer, err
}

func (b *bridge) checkPath(path string) (sanity.PathKind, error) {
	b.mutex.Lock()
	if target, known := b.targets[path]; known {
		path = target
	}
	b.mutex.Unlock()
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return sanity.PathIsNotFound, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return sanity.PathIsDir, nil
	default:
		return sanity.PathIsOther, nil
	}
}
