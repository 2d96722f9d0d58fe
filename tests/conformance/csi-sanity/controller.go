package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Makes volumes out of nothing: in a cluster there is no controller, the author of a pod writes these attributes.
type controller struct {
	csi.UnimplementedControllerServer

	attributes map[string]string
	mutex      sync.Mutex
	made       int
	volumes    map[string]*csi.Volume // by the name that was asked for
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{
			Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		}},
	}}}, nil
}

func (c *controller) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if request.Name == "" || len(request.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name and capabilities are required")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	volume, known := c.volumes[request.Name]
	if !known {
		c.made++
		volume = &csi.Volume{
			VolumeId:      fmt.Sprintf("volume-%d", c.made),
			CapacityBytes: request.GetCapacityRange().GetRequiredBytes(),
			VolumeContext: c.attributes,
		}
		c.volumes[request.Name] = volume
	}
	if volume.CapacityBytes != request.GetCapacityRange().GetRequiredBytes() {
		return nil, status.Error(codes.AlreadyExists, "there is such a volume of another size")
	}
	return &csi.CreateVolumeResponse{Volume: volume}, nil
}

func (c *controller) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if request.VolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_id is required")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for name, volume := range c.volumes {
		if volume.VolumeId == request.VolumeId {
			delete(c.volumes, name)
		}
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if request.VolumeId == "" || len(request.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume_id and capabilities are required")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, volume := range c.volumes {
		if volume.VolumeId == request.VolumeId {
			return &csi.ValidateVolumeCapabilitiesResponse{
				Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities},
			}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "there is no such volume")
}
