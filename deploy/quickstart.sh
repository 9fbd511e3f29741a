#!/bin/sh
# Install everything for one platform, with a sample function, into the cluster of the current context: docs/quickstart.md.
#   sh deploy/quickstart.sh kubernetes|knative|openfaas [REGISTRY/USER]
# kind and k3d get the images themselves; other clusters, and OpenFaaS CE, pull them from the registry.
set -eu
cd "$(dirname "$0")/.."
platform=${1:-}
registry=${2:-}
case $platform in
kubernetes) chart=kubernetes namespace=tailbound ;;
knative) chart=knative-class namespace=tailbound-knative ;;
openfaas) chart=openfaas namespace=openfaas ;;
*)
    echo "quickstart.sh: '$platform' must be kubernetes, knative or openfaas; docs/quickstart.md has the commands" >&2
    exit 2
    ;;
esac
context=$(kubectl config current-context)
case $platform:$registry:$context in
kubernetes::kind-* | kubernetes::k3d-* | knative::kind-* | knative::k3d-*) images=dev.local ;; # whose tags Knative does not resolve
*::*)
    echo "quickstart.sh: $platform on '$context' needs a registry to pull from: name REGISTRY/USER as second argument" >&2
    exit 2
    ;;
*) images=$registry ;;
esac
docker=$(command -v docker || command -v podman)
echo "quickstart.sh: into the cluster of context '$context'" >&2

# The sample: a simulated accelerator that takes 40 ms for a batch of four.
rm -rf build/quickstart
mkdir -p build/quickstart
cp -RL template/python3-inference build/quickstart/function # L: the watchdog is a link
cp -R functions/accelerator/. build/quickstart/function/function/
echo 'ENV device_slowdown=4 workers=1 max_batch_size=4' >>build/quickstart/function/Dockerfile
"$docker" build --tag "$images/sample:quickstart" build/quickstart/function
"$docker" build --tag "$images/slo-autoscaler:quickstart" autoscaler
for image in sample slo-autoscaler; do
    case $registry:$context in
    :kind-*) kind load docker-image --name "${context#kind-}" "$images/$image:quickstart" ;;
    :*) k3d image import --cluster "${context#k3d-}" "$images/$image:quickstart" ;;
    *) "$docker" push "$images/$image:quickstart" ;;
    esac
done

helm upgrade monitoring --install kube-prometheus-stack --version 88.5.3 \
    --repo https://prometheus-community.github.io/helm-charts --namespace monitoring --create-namespace --wait \
    --set prometheus.prometheusSpec.retention=32d --set 'grafana.grafana\.ini.auth\.anonymous.enabled=true'
helm upgrade slo-autoscaler --install deploy/helm/slo-autoscaler --namespace $namespace --create-namespace --wait \
    --values deploy/prometheus/operator-values.yaml --set platform=$chart \
    --set image.repository="$images/slo-autoscaler" --set image.tag=quickstart

# Apply a platform's sample with our image, small enough for a laptop.
sample() {
    sed -e "s#localhost:5000/tailbound/my-model:1#$images/sample:quickstart#" -e 's/cpu: "1"/cpu: 100m/' \
        "deploy/$platform/my-model.yaml" | kubectl apply -f -
}
case $platform in
kubernetes)
    kubectl create namespace shop --dry-run=client --output yaml | kubectl apply -f -
    sample
    kubectl --namespace shop rollout status deployment/my-model
    ;;
knative)
    sample
    kubectl wait ksvc/my-model --for=condition=Ready --timeout=5m
    ;;
openfaas)
    # By this name the gateway asks for counts of invocations.
    kubectl --namespace openfaas create service externalname prometheus --dry-run=client --output yaml \
        --external-name monitoring-kube-prometheus-prometheus.monitoring.svc.cluster.local | kubectl apply -f -
    kubectl --namespace openfaas rollout status deployment/gateway
    kubectl --namespace openfaas port-forward service/gateway 8080:8080 >/dev/null &
    trap "kill $! 2>/dev/null || true" EXIT
    curl --silent --output /dev/null --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/healthz
    kubectl --namespace openfaas get secret basic-auth --output jsonpath='{.data.basic-auth-password}' \
        | base64 --decode | faas-cli login --username admin --password-stdin
    faas-cli deploy --image "$images/sample:quickstart" --name my-model --readonly \
        --env slo_latency=200ms --env slo_objective=0.99 \
        --label com.openfaas.scale.min=1 --label com.openfaas.scale.max=5 \
        --annotation prometheus.io.scrape=true --annotation prometheus.io.port=8081 \
        --cpu-request 100m --memory-request 256Mi --cpu-limit 2 --memory-limit 2Gi
    ;;
esac
