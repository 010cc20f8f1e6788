// Command kubebox is a Kubernetes control plane, node and client in one binary.
//
// The machines Muster is developed on reach package registries and nothing
// else, so the clusters for `make clusters` are compiled from the Go modules
// that kube-apiserver, kubelet and the rest are published as. What lives here
// is dispatch only: `kubebox NAME ARGS...` behaves as the program NAME. How the
// programs are configured is the business of ../up.sh and its neighbours.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	// Registered by upstream's own main packages, which this one replaces.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	// The CoreDNS plugins that a cluster's Corefile needs; the full set would
	// pull in another fifty modules.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

// coredns orders its plugins by this list; plugins that are not compiled in
// must not be named.
var corednsPlugins = []string{"errors", "health", "ready", "cache", "kubernetes", "forward"}

func command(new func() *cobra.Command) func() {
	return func() { os.Exit(cli.Run(new())) }
}

var programs = map[string]func(){
	"etcd": func() { etcdmain.Main(os.Args) },
	"coredns": func() {
		dnsserver.Directives = corednsPlugins
		coremain.Run()
	},
	"kube-apiserver":          command(apiserver.NewAPIServerCommand),
	"kube-controller-manager": command(controllers.NewControllerManagerCommand),
	"kube-scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              command(proxy.NewProxyCommand),
	"kubelet":                 command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kubectl": func() {
		// As in upstream's main: kubectl prints its own errors.
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			// kubectl's own checks have already exited with their message.
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	},
}

func main() {
	if len(os.Args) > 1 {
		if run, ok := programs[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			run()
			return
		}
	}
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintln(os.Stderr, "usage: kubebox "+strings.Join(names, "|")+" [ARGS...]")
	os.Exit(2)
}
