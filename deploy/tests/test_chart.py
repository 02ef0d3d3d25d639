"""The chart with five sets of values: it keeps to the schemas of Kubernetes and of the operators,
and to what it promises. The schemas of KEDA and of the Prometheus operator are those of types that
are made from their definitions: what a type does not know is lost when it is read and written.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import promql
import pytest
import yaml
from chart import CHART, VALUES, Resource, named, of_kind, pods, render, values
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from helm_python import HelmError

# The oldest that is still supported, and the newest.
KUBERNETES = ("1.30", "1.34")
CUSTOM: dict[str, Any] = {
    "ScaledObject": ScaledObject,
    "ServiceMonitor": ServiceMonitor,
    "PrometheusRule": PrometheusRule,
}


@pytest.fixture(params=VALUES, ids=lambda path: path.stem, scope="module")
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return render(values(request.param))


def test_there_are_five_sets_of_values() -> None:
    assert len(VALUES) >= 5


def test_helm_finds_nothing() -> None:
    helm_python.disable_logging()
    assert helm_python.lint(str(CHART))["errors"] == []


def test_it_keeps_to_the_schemas(resources: list[Resource]) -> None:
    for one in resources:
        kind = CUSTOM.get(one["kind"])
        if kind is None:
            for version in KUBERNETES:
                kubernetes_validate.validate(one, version, strict=True)
            continue
        read = kind.model_validate(copy.deepcopy(one))
        written = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
        assert written["spec"] == json.loads(json.dumps(one["spec"])), one["metadata"]["name"]


def test_pods_have_no_rights_and_write_to_volumes_alone(resources: list[Resource]) -> None:
    for pod in pods(resources):
        security, container = pod.spec["securityContext"], pod.container
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= set(container["resources"]), pod.name
        assert "memory" in container["resources"]["limits"], pod.name
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod.spec["volumes"]}, pod.name
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly") or mount["name"] in ("tmp", "cache"), mount
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names)), pod.name


def test_a_worker_has_time_to_finish(resources: list[Resource]) -> None:
    for pod in pods(resources):
        drain = {one["name"]: one.get("value") for one in pod.container["env"]}
        seconds = drain.get("EMBED_WORKER__WORKER__DRAIN_TIMEOUT")
        for word in pod.container.get("args", []):
            seconds = word.removeprefix("--drain-timeout=") if "--drain" in word else seconds
        if seconds is not None:
            assert pod.spec["terminationGracePeriodSeconds"] >= int(seconds.rstrip("s")) + 15
        assert seconds is not None or not pod.name.endswith(("-gateway", "-blue", "-green"))


def test_a_gateway_has_the_time_that_it_is_given() -> None:
    given = chosen("secured")
    given["gateway"] = given.get("gateway", {}) | {"enabled": True, "drainSeconds": 300}
    (pod,) = (pod for pod in pods(render(given)) if pod.name.endswith("-gateway"))
    assert "--drain-timeout=300s" in pod.container["args"]
    assert pod.spec["terminationGracePeriodSeconds"] == 320
    given["gateway"]["args"] = ["--drain-timeout=60s"]
    with pytest.raises(Exception, match=r"gateway\.drainSeconds"):
        render(given)


def selected(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_what_selects_pods_finds_some(resources: list[Resource]) -> None:
    there = list(pods(resources))
    deployed = [pod for pod in there if "track" in str(pod.labels) or "gateway" in pod.name]
    for one in resources:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            found = [pod for pod in there if selected(spec["selector"], pod.labels)]
            ports = {port["name"] for pod in found for port in pod.container.get("ports", [])}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif one["kind"] == "PodDisruptionBudget":
            assert [p for p in deployed if selected(spec["selector"]["matchLabels"], p.labels)]
        elif one["kind"] == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"]
            services = of_kind(resources, "Service")
            assert [s for s in services if selected(wanted, s["metadata"]["labels"])]
        elif one["kind"] == "Deployment":
            template = spec["template"]["metadata"]["labels"]
            assert selected(spec["selector"]["matchLabels"], template)
            others = [pod for pod in there if pod.name != one["metadata"]["name"]]
            mine = spec["selector"]["matchLabels"]
            assert not [pod.name for pod in others if selected(mine, pod.labels)]


def test_every_consumer_that_is_scaled_by_is_made_first(resources: list[Resource]) -> None:
    (job,) = of_kind(resources, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    pairs = [arg.removeprefix("--variant=").split("=") for arg in args if "--variant=" in arg]
    made = {
        (f"EMBED_{model}", f"{name}-{lane}") for model, name in pairs for lane in ("job", "bulk")
    }
    looked_at = set()
    for scaled in of_kind(resources, "ScaledObject"):
        target = scaled["spec"]["scaleTargetRef"]["name"]
        deployment = named(resources, "Deployment", target)
        assert "replicas" not in deployment["spec"], "the chart and KEDA would both set it"
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "nats-jetstream":
                metadata = trigger["metadata"]
                looked_at.add((metadata["stream"], metadata["consumer"]))
    assert looked_at <= made
    if of_kind(resources, "ScaledObject"):
        assert looked_at == made


def test_secrets_are_named_and_not_held(resources: list[Resource]) -> None:
    assert not of_kind(resources, "Secret")


def test_a_hook_uses_nothing_that_the_release_makes(resources: list[Resource]) -> None:
    ours = {one["metadata"]["name"] for one in resources if one["kind"] != "Job"}
    (job,) = of_kind(resources, "Job")
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] not in ours
    for volume in spec["volumes"]:
        assert volume.get("configMap", {}).get("name") not in ours


def chosen(name: str) -> dict[str, Any]:
    return values(next(path for path in VALUES if path.stem == name))


def test_blue_and_green_share_the_variants() -> None:
    resources = render(chosen("bluegreen"))
    blue, green = (named(resources, "Deployment", f"main-{track}") for track in ("blue", "green"))
    assert (blue["spec"]["replicas"], green["spec"]["replicas"]) == (3, 1)

    def template(one: Resource) -> Any:
        spec = copy.deepcopy(one["spec"]["template"]["spec"])
        return spec["containers"][0].pop("image"), spec

    (image, as_blue), (other, as_green) = template(blue), template(green)
    assert as_blue == as_green
    assert (image, other) == tuple(
        f"registry.example/akidb-embed-worker:{tag}" for tag in ("0.1.0-cpu", "0.2.0-cpu")
    )
    # Green takes over, and blue goes when green is there, and stays to go back to: no pod of either
    # is made anew.
    switched = chosen("bluegreen")
    tracks = switched["groups"]["main"]["tracks"]
    tracks["active"] = "green"
    for standby in (3, 1):
        tracks["standbyReplicas"] = standby
        after = render(switched)
        for track, replicas in (("blue", standby), ("green", 3)):
            before = named(resources, "Deployment", f"main-{track}")
            now = named(after, "Deployment", f"main-{track}")
            assert now["spec"]["template"] == before["spec"]["template"]
            assert now["spec"]["replicas"] == replicas


def test_busy_engines_of_the_track_that_is_scaled_count() -> None:
    given = chosen("bluegreen")
    given["prometheus"] = given["prometheus"] | {"url": "http://prometheus:9090"}
    given["groups"]["main"]["autoscaling"] = {"enabled": True, "busyEngines": 2}
    for track in ("blue", "green"):
        given["groups"]["main"]["tracks"]["active"] = track
        scaled = named(render(given), "ScaledObject", "main")
        assert scaled["spec"]["scaleTargetRef"]["name"].endswith(f"-{track}")
        (busy,) = (one for one in scaled["spec"]["triggers"] if one["name"] == "busy")
        assert f'akidb_io_track="{track}"' in busy["metadata"]["query"]


def test_rare_variants_have_no_pods_and_gpus_are_asked_for() -> None:
    scaled = named(render(chosen("autoscaled")), "ScaledObject", "rare")
    assert scaled["spec"]["minReplicaCount"] == 0
    kinds = [trigger["type"] for trigger in scaled["spec"]["triggers"]]
    assert kinds == ["nats-jetstream", "nats-jetstream", "prometheus"]
    large = named(render(chosen("gpu")), "Deployment", "large-blue")["spec"]["template"]["spec"]
    assert large["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert large["nodeSelector"]
    assert large["runtimeClassName"] == "nvidia"


def test_a_digest_is_that_of_its_image() -> None:
    def image(**own: str) -> str:
        given = chosen("secured")
        given["groups"]["main"]["image"] = own
        template = named(render(given), "Deployment", "main-blue")["spec"]["template"]
        found: str = template["spec"]["containers"][0]["image"]
        return found

    repository, other = "registry.example/akidb-embed-worker", "sha256:" + "1" * 64
    assert image() == f"{repository}@sha256:{'0' * 64}"
    assert image(digest=other) == f"{repository}@{other}"
    assert image(tag="cuda") == f"{repository}:cuda"
    assert image(tag="cuda", digest=other) == f"{repository}@{other}"


def test_a_change_of_the_configuration_replaces_pods() -> None:
    def checksum(config: str) -> str:
        given = chosen("minimal")
        given["groups"]["main"]["config"] = config
        template = named(render(given), "Deployment", "main-blue")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum("") != checksum('[limits]\nrpc_max_wait = "1s"\n')


def test_the_rules_are_those_of_prometheus(promtool: Path, tmp_path: Path) -> None:
    resources = render(chosen("autoscaled"))
    (rule,) = of_kind(resources, "PrometheusRule")
    groups = {group["name"]: group for group in rule["spec"]["groups"]}
    for name in ("recording", "alerts"):
        path = promql.PROMETHEUS / "rules" / f"{name}.yaml"
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            assert groups.pop(group["name"]) == group
    targets = {
        (one["record"], one.get("labels", {}).get("lane")): one["expr"]
        for one in groups.pop("akidb-targets")["rules"]
    }
    path = promql.PROMETHEUS / "rules" / "targets.yaml"
    there = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert set(targets) == {(one["record"], one.get("labels", {}).get("lane")) for one in there}
    assert targets["akidb:oldest_job_age_seconds:target", "job"] == "vector(30)"
    assert not groups
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
    subprocess.run([promtool, "check", "rules", file], check=True, capture_output=True)  # noqa: S603


def test_the_default_targets_are_those_of_prometheus() -> None:
    given = chosen("minimal") | {"prometheus": {"rules": {"enabled": True}}}
    (rule,) = of_kind(render(given), "PrometheusRule")
    made = next(g for g in rule["spec"]["groups"] if g["name"] == "akidb-targets")["rules"]
    path = promql.PROMETHEUS / "rules" / "targets.yaml"
    there = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"][0]["rules"]
    for one in there:
        assert one in made


def test_a_package_has_everything_in_it(tmp_path: Path) -> None:
    """Rules and dashboards lie elsewhere in the repository, and the chart has links to them."""
    helm_python.disable_logging()
    packed = helm_python.package(str(CHART), destination=str(tmp_path))
    given = chosen("autoscaled")
    assert render(given, Path(str(packed))) == render(given)


def test_dashboards_come_along() -> None:
    resources = render(chosen("autoscaled"))
    maps = [one for one in of_kind(resources, "ConfigMap") if "grafana_dashboard" in str(one)]
    held = {name: text for one in maps for name, text in one["data"].items()}
    files = (CHART / "files" / "dashboards").glob("*.json")
    assert held == {path.name: path.read_text(encoding="utf-8") for path in files}
    assert len(held) == 6


@pytest.mark.parametrize(
    ("change", "named_in_error"),
    [
        ({"replica": 3}, "replica"),
        ({"groups": {"main": {"variants": []}}}, "/groups/main/variants"),
        ({"groups": {"main": {"variants": [{"model": "m"}]}}}, "/groups/main/variants/0"),
        (
            {"groups": {"main": {"variants": [{"model": "m", "precision": "int4"}]}}},
            "/groups/main/variants/0/precision",
        ),
        ({"image": {"repository": "r", "digest": "sha256:12"}}, "/image/digest"),
        ({"nats": {"url": "nats://user:secret@host"}}, "/nats/url"),
        ({"registry": {"url": "s3://key:secret@bucket"}}, "/registry/url"),
        ({"init": {"replicas": 2}}, "/init/replicas"),
        ({"rollout": {"enabled": True}}, "/rollout"),
        ({"defaults": {"autoscaling": {"minReplicas": "0"}}}, "/defaults/autoscaling/minReplicas"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], named_in_error: str) -> None:
    given = chosen("minimal") | change
    with pytest.raises(HelmError, match=re.escape(named_in_error)):
        render(given)


def test_everything_that_the_schema_knows_has_a_default_that_is_explained() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = values(CHART / "values.yaml")

    def look(part: dict[str, Any], given: Any, where: str) -> None:
        part = schema["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        for name, inner in part.get("properties", {}).items():
            path = f"{where}.{name}"
            if name == "global" or (given == {} and where.endswith((".image", ".resources"))):
                continue
            if where.endswith(".resources") and name == "claims":
                continue
            assert isinstance(given, dict), path
            assert name in given, f"{path[1:]} is not in values.yaml"
            look(inner, given[name], path)

    look(schema, defaults, "")
