"""The JobSet that ``launch/gke/submit.py`` makes, handed to a stand-in of kubectl or printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SUBMIT = Path(__file__).parents[2] / "launch/gke/submit.py"
GIVEN = {"IMAGE": "registry/t2i", "BUCKET": "pictures"}


def submit(*args, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("SLICES", "SPOT", "ACCOUNT", "RESTARTS")}
    command = [sys.executable, str(SUBMIT), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=clean | environment, check=False)


def jobset(*args, **environment):
    done = submit("--dry-run", *args, **GIVEN, **environment)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def pod(found):
    return found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("topology, accelerator, hosts, chips", [
    ("v5e:16x16", "tpu-v5-lite-podslice", 64, 4), ("v5p:8x8x8", "tpu-v5p-slice", 128, 4),
    ("v6e:2x4", "tpu-v6e-slice", 2, 4), ("v5e:1x1", "tpu-v5-lite-podslice", 1, 1),
])  # fmt: skip
def test_every_host_of_every_slice_gets_a_pod_with_its_chips(topology, accelerator, hosts, chips):
    found = jobset("mine", topology, "t2i", "train", SLICES="3")
    (job,) = found["spec"]["replicatedJobs"]
    assert job["replicas"] == 3
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == hosts
    chosen = pod(found)["nodeSelector"]
    assert chosen["cloud.google.com/gke-tpu-accelerator"] == accelerator
    assert chosen["cloud.google.com/gke-tpu-topology"] == topology.partition(":")[2]
    assert pod(found)["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


def test_the_command_arrives_as_it_was():
    words = ["t2i", "train", 'my "own" config.py', "--data.dataset", "$HOME: é # x", "both ' and \" \\n"]
    assert pod(jobset("mine", "v5e:4x4", *words))["containers"][0]["command"] == words


def test_a_wrong_config_ends_the_training_and_anything_else_starts_it_again():
    found = jobset("mine", "v5e:4x4", "t2i", RESTARTS="7")
    policy = found["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    (rule,) = found["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [64, 65]}


def test_a_pod_on_the_hosts_network_reads_the_bucket_by_its_own_account():
    spec = pod(jobset("mine", "v5e:4x4", "t2i", ACCOUNT="trainer"))
    (volume,) = spec["volumes"]
    assert spec["hostNetwork"] is True and spec["serviceAccountName"] == "trainer"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "pictures"
    assert volume["csi"]["volumeAttributes"]["hostNetworkPodKSA"] == "true"  # the API takes strings alone


def test_preemptible_chips_only_when_asked_for():
    spot = "cloud.google.com/gke-spot"
    assert pod(jobset("mine", "v5e:4x4", "t2i", SPOT="1"))["nodeSelector"][spot] == "true"
    assert spot not in pod(jobset("mine", "v5e:4x4", "t2i"))["nodeSelector"]


def test_kubectl_is_given_what_a_dry_run_prints(tmp_path):
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/call\ncat > {tmp_path}/given\nexit 3\n')
    (tmp_path / "kubectl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = submit("mine", "v5e:4x4", "t2i", "train", **GIVEN, PATH=path)
    assert done.returncode == 3 and (tmp_path / "call").read_text() == "apply -f -\n"
    assert yaml.safe_load((tmp_path / "given").read_text()) == jobset("mine", "v5e:4x4", "t2i", "train")


@pytest.mark.parametrize("args, environment, says", [
    (("mine", "v5e:4x4"), GIVEN, "COMMAND"), (("My Run", "v5e:4x4", "t2i"), GIVEN, "'My Run'"),
    (("mine", "v4:4x4", "t2i"), GIVEN, "v5e, v5p, v6e"), (("mine", "v5e:4xx", "t2i"), GIVEN, "'v5e:4xx'"),
    (("mine", "v5e:3x3", "t2i"), GIVEN, "9 chips"), (("mine", "v5e:4x4", "t2i"), {"IMAGE": "i"}, "set BUCKET"),
    (("mine", "v5e:4x4", "t2i"), GIVEN | {"SLICES": "0"}, "SLICES=0"),
])  # fmt: skip
def test_a_wrong_call_says_what_is_right(args, environment, says):
    clean = {"IMAGE": "", "BUCKET": ""} | environment
    done = submit(*args, **clean)
    assert done.returncode == 64 and says in done.stderr and not done.stdout


def test_the_help_makes_a_bucket_in_which_directories_can_be_renamed():
    (line,) = (line for line in submit().stderr.splitlines() if "buckets create" in line)
    assert "--enable-hierarchical-namespace --uniform-bucket-level-access" in line


def test_a_pod_sees_what_the_others_write():
    (volume,) = pod(jobset("mine", "v5e:4x4", "t2i"))["volumes"]
    assert "metadata-cache:ttl-secs:0" in volume["csi"]["volumeAttributes"]["mountOptions"].split(",")
