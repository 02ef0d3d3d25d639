"""Prepares a container's command as it stands in the chart, to be run without a container.

Programs are ours, by name; what is mounted lies in folders of the test, and its paths, wherever
they stand in arguments and variables, lead there. All else is as in the chart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chart import Pod, Resource, named
from processes import binary, environment


class Mounts:
    """Where the folders of a container really are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, Path] = {}

    def add(self, inside: str, outside: Path | None = None) -> Path:
        """A folder of the container; a new one, unless it is there."""
        outside = outside or self.root / inside.strip("/").replace("/", "-")
        outside.mkdir(parents=True, exist_ok=True)
        self.folders[inside] = outside
        return outside

    def outside(self, text: str) -> str:
        """The text with all paths below the folders as they really are, the longest first."""
        longest = sorted(map(re.escape, self.folders), key=len, reverse=True)
        paths = rf"(?<![\w/.-])({'|'.join(longest)})(?=[/\s\"]|$)"
        return re.sub(paths, lambda found: str(self.folders[found[1]]), text)


def prepare(
    pod: Pod, resources: list[Resource], secrets: Mapping[str, Mapping[str, str]], folder: Path
) -> tuple[list[str], dict[str, str], Mounts]:
    """The command, its environment, and its folders with what the release and `secrets` hold."""
    mounts = Mounts(folder / pod.name)
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    for mount in pod.container["volumeMounts"]:
        volume, there = volumes[mount["name"]], mounts.add(mount["mountPath"])
        files: Mapping[str, str] = {}
        if "configMap" in volume:
            files = named(resources, "ConfigMap", volume["configMap"]["name"])["data"]
        elif "secret" in volume:
            files = secrets[volume["secret"]["secretName"]]
        for name, text in files.items():
            (there / name).write_text(text, encoding="utf-8")
    env = {one["name"]: value(one, pod) for one in pod.container["env"]}
    for source in pod.container.get("envFrom", []):
        env |= secrets[source["secretRef"]["name"]]
    (program,) = pod.container["command"]
    command = [binary(Path(program).name)]
    command += [mounts.outside(arg) for arg in pod.container["args"]]
    env = {name: mounts.outside(text) for name, text in env.items()}
    return command, environment(HOME=str(mounts.root), **env), mounts


def value(variable: dict[str, Any], pod: Pod) -> str:
    if "value" in variable:
        return str(variable["value"])
    path = variable["valueFrom"]["fieldRef"]["fieldPath"]
    return {"metadata.name": f"{pod.name}-abc12"}[path]


def probe_url(pod: Pod, probe: str) -> str:
    """Where the kubelet would ask, on this machine."""
    get = pod.container[probe]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
    return f"http://127.0.0.1:{ports[get['port']]}{get['path']}"
