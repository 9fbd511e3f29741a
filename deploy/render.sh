#!/bin/sh
# Write what is made from other files: the install manifests from deploy/openfaas/ and deploy/kubernetes/, and the
# PrometheusRule from deploy/prometheus/rules/. Needs kustomize, or kubectl, which has it built in.
set -eu
cd "$(dirname "$0")"

if command -v kustomize >/dev/null; then
    build="kustomize build"
elif command -v kubectl >/dev/null; then
    build="kubectl kustomize"
else
    echo "render.sh: neither kustomize nor kubectl is on PATH (Debian: apt-get install kustomize)" >&2
    exit 1
fi

{
    echo "# The autoscaler on OpenFaaS: kubectl apply -f deploy/autoscaler.yaml"
    echo "# Made from deploy/openfaas/ by deploy/render.sh: change it there. docs/install-openfaas.md has the rest."
    $build openfaas
} >autoscaler.yaml.new
mv autoscaler.yaml.new autoscaler.yaml

{
    echo "# The autoscaler for plain Deployments: kubectl apply -f deploy/autoscaler-kubernetes.yaml"
    echo "# Made from deploy/kubernetes/ by deploy/render.sh: change it there. docs/install-kubernetes.md has the rest."
    $build kubernetes
} >autoscaler-kubernetes.yaml.new
mv autoscaler-kubernetes.yaml.new autoscaler-kubernetes.yaml

{
    cat <<'HEADER'
# For the Prometheus operator: the rules of deploy/prometheus/rules/, from which deploy/render.sh makes this.
# Your Prometheus' ruleSelector must match its labels; kube-prometheus-stack wants release: <its release name>.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tailbound
  namespace: openfaas
  labels:
    app.kubernetes.io/part-of: tailbound
spec:
  groups:
HEADER
    for rules in prometheus/rules/*.yml; do
        sed -e '/^groups:/d' -e 's/^./  &/' "$rules"
    done
} >prometheus/prometheus-rule.yaml
