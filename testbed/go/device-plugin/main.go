// Command device-plugin advertises devices that do not exist, so that pods asking for
// nvidia.com/gpu are scheduled, admitted and counted by a real kubelet on a machine without a GPU.
//
// It speaks the kubelet's device plugin API v1beta1.  Allocate tells the container which devices it
// got by NVIDIA_VISIBLE_DEVICES, as NVIDIA's plugin does, and mounts nothing.  A kubelet that starts
// again forgets its plugins and empties their folder: the plugin notices that its own socket went
// away and registers anew.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// How often the plugin looks whether the kubelet took its socket away.
const lookEvery = 500 * time.Millisecond

type plugin struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch reports every device as healthy, once: imaginary devices do not fail.
func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.GetContainerRequests() {
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.GetDevicesIds(), ",")},
		})
	}
	return response, nil
}

// serveOnce serves and registers until the kubelet removes the socket (nil) or ctx ends (its error).
func serveOnce(ctx context.Context, folder, resource string, p *plugin) error {
	name := strings.NewReplacer("/", "-", ".", "-").Replace(resource) + ".sock"
	socket := filepath.Join(folder, name)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go func() { _ = server.Serve(listener) }() // ends with Stop below
	defer server.Stop()

	if err := register(ctx, filepath.Join(folder, "kubelet.sock"), name, resource); err != nil {
		return err
	}
	log.Printf("registered %d %s", len(p.devices), resource)
	mine, err := os.Stat(socket)
	if err != nil {
		return nil // gone already: register again
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			now, err := os.Stat(socket)
			if err != nil || !os.SameFile(mine, now) {
				log.Print("the kubelet removed the socket: it was started again")
				return nil
			}
		}
	}
}

func register(ctx context.Context, kubelet, endpoint, resource string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = api.NewRegistrationClient(connection).Register(ctx, &api.RegisterRequest{
		Version:      api.Version,
		Endpoint:     endpoint,
		ResourceName: resource,
		Options:      &api.DevicePluginOptions{},
	})
	return err
}

func main() {
	folder := flag.String("folder", api.DevicePluginPath, "the kubelet's device plugin folder")
	resource := flag.String("resource", "nvidia.com/gpu", "the resource to advertise")
	count := flag.Int("count", 8, "how many devices")
	flag.Parse()

	p := &plugin{}
	for index := range *count {
		p.devices = append(p.devices, &api.Device{ID: fmt.Sprintf("GPU-%08d", index), Health: api.Healthy})
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for ctx.Err() == nil {
		if err := serveOnce(ctx, *folder, *resource, p); err != nil && ctx.Err() == nil {
			log.Printf("%v; trying again in a second", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}
