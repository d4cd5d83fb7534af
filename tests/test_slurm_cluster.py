"""The SLURM that the tests start is a real one: what a sweep relies on happens here as on a cluster.

The tests share one cluster and submit before they wait; the slowest takes up to 30 s, since the
controller looks at time limits (and at --signal) every 30 s only.
"""

import re
import socket
from pathlib import Path

import pytest

import slurm_cluster
from slurm_cluster import SlurmCluster, processes, why_not

needs_slurm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def submit(cluster, folder, name, script, *args):
    "Submit a bash script that writes to NAME.txt in the folder; returns the job id"
    return cluster.sbatch(
        f"--job-name={name}",
        "--open-mode=append",
        f"--output={folder}/{name}.txt",
        *args,
        input=f"#!/bin/bash\n{script}\n",
    )


def states(cluster, job_id):
    "States of a job, or of an array's tasks"
    found = [j["state"] for j in cluster.jobs() if j["array_job_id"] == job_id]
    assert found, f"job {job_id} is unknown"
    return found


def ended(cluster, job_id, timeout=30):
    "Wait until a job's every task has ended; returns their states"
    cluster.until(lambda: set(states(cluster, job_id)) <= slurm_cluster.ENDED, timeout, f"job {job_id} does not end")
    return states(cluster, job_id)


def listening(port):
    "Local addresses, as /proc/net/tcp writes them, on which this machine listens at a port"
    rows = [line.split() for p in Path("/proc/net").glob("tcp*") for line in p.read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


def ports(cluster):
    "The ports of slurmctld and slurmd"
    return [int(p) for p in re.findall(r"^Slurm(?:ctld|d)Port=(\d+)", cluster.conf.read_text(), re.M)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def cluster(folder):
    with SlurmCluster(folder / "cluster", gpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def warned(cluster, folder):
    "A job that is to be warned of its end: submitted before the other tests, waited for after them"
    return submit(
        cluster,
        folder,
        "warned",
        "trap 'echo warned; exit 0' USR1\nwhile :; do sleep 0.2; done",
        "--time=1",
        "--signal=B:USR1@50",
    )


@needs_slurm
def test_an_array_runs_two_tasks_at_a_time_each_on_its_gpu(cluster, folder, warned):
    script = 'echo "$SLURM_ARRAY_TASK_ID gpu $CUDA_VISIBLE_DEVICES"; echo + >> gpus; sleep 1; echo - >> gpus'
    array = submit(cluster, folder, "array", script, "--array=0-3", "--gres=gpu:1", f"--chdir={folder}")
    after = submit(cluster, folder, "after", f"wc -l < {folder}/gpus", f"--dependency=afterok:{array}")
    assert ended(cluster, after) == ["COMPLETED"]
    assert states(cluster, array) == ["COMPLETED"] * 4
    lines = sorted((folder / "array.txt").read_text().splitlines())
    assert [line[0] for line in lines] == list("0123")
    assert {line[-1] for line in lines} == {"0", "1"}
    running = [0]
    for sign in (folder / "gpus").read_text().split():
        running.append(running[-1] + (1 if sign == "+" else -1))
    assert max(running) == 2
    assert (folder / "after.txt").read_text().strip() == "8"


@needs_slurm
def test_dependencies_tell_failed_arrays_apart(cluster, folder, warned):
    array = submit(cluster, folder, "failing", "exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    anyway = submit(cluster, folder, "anyway", "echo here", f"--dependency=afterany:{array}")
    never = submit(cluster, folder, "never", "echo here", f"--dependency=afterok:{array}")
    assert ended(cluster, anyway) == ["COMPLETED"]
    assert sorted(states(cluster, array)) == ["COMPLETED", "FAILED"]
    assert [j["reason"] for j in cluster.jobs() if j["id"] == never] == ["DependencyNeverSatisfied"]
    cluster.run("scancel", never)
    assert ended(cluster, never) == ["CANCELLED"]


@needs_slurm
def test_a_requeued_task_restarts_soon_and_alone(cluster, folder, warned):
    array = submit(
        cluster,
        folder,
        "again",
        'echo "$SLURM_ARRAY_TASK_ID restart ${SLURM_RESTART_COUNT:-0}"\n'
        '[ "$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" = 1 ] || exit 0\n'
        # not $SLURM_JOB_ID: the last task bears the array's own id, and all of the array would be requeued
        'scontrol requeue ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; sleep 30',
        "--array=0-1",
        "--requeue",
    )
    assert ended(cluster, array, 20) == ["COMPLETED"] * 2
    lines = [line for line in (folder / "again.txt").read_text().splitlines() if "restart" in line]
    assert sorted(lines) == ["0 restart 0", "1 restart 0", "1 restart 1"]
    assert {j["id"]: j["restarts"] for j in cluster.jobs() if j["array_job_id"] == array} == {
        f"{array}_0": "0",
        f"{array}_1": "1",
    }


@needs_slurm
def test_it_listens_on_loopback_only(cluster):
    # slurmd binds to what the host's name means; where that is not loopback it listens everywhere
    everywhere = set() if slurm_cluster.on_loopback(socket.gethostname()) else {"00000000"}
    ctld, slurmd = ports(cluster)
    assert listening(ctld) == {"0100007F"}
    assert listening(slurmd) <= {"0100007F"} | everywhere and listening(slurmd)


@needs_slurm
def test_a_job_is_warned_before_its_time_limit(cluster, folder, warned):
    assert ended(cluster, warned, 40) == ["COMPLETED"]
    assert (folder / "warned.txt").read_text() == "warned\n"


@needs_slurm
def test_waiting_names_what_has_not_ended(cluster, folder):
    submit(cluster, folder, "sleeper", "sleep 60")
    with pytest.raises(TimeoutError, match="sleeper"):
        cluster.wait(0)
    cluster.run("scancel", "--name=sleeper")
    assert all(j["state"] in slurm_cluster.ENDED for j in cluster.wait(10))


@needs_slurm
def test_nothing_is_left_and_the_next_one_starts(tmp_path):
    # too long a name for sockets: a short folder takes them, and is removed
    long = tmp_path / ("long-" * 12)
    for _ in range(2):
        with SlurmCluster(long, gpus=0, max_array_size=20_001, extra_conf={"MaxJobCount": 30_000}) as cluster:
            daemons = [d.pid for d in cluster.daemons.values()]
            # one that no signal moves, one that leaves its job's process tree
            submit(cluster, tmp_path, "stubborn", "trap '' TERM\nwhile :; do sleep 0.2; done")
            submit(cluster, tmp_path, "escaped", f"setsid sleep 1000 &\necho $! > {tmp_path}/pid\nsleep 0.5")
            submit(cluster, tmp_path, "large", "sleep 1000", "--array=0-20000", "--hold")
            cluster.until(
                lambda: "COMPLETED" in [j["state"] for j in cluster.jobs() if j["name"] == "escaped"], 10, "no job ends"
            )
            escaped = int((tmp_path / "pid").read_text())
            assert escaped in processes()
            assert cluster.short.exists()
        assert not {*daemons, escaped} & set(processes())
        assert not cluster.leftovers()
        assert not cluster.short.exists()
        assert not any(listening(port) for port in ports(cluster))


def test_a_machine_without_slurm_is_told_what_is_missing(monkeypatch):
    monkeypatch.setattr(slurm_cluster.shutil, "which", lambda name, **_: None if name == "slurmd" else "/bin/x")
    assert why_not() == "SLURM is not installed (missing: slurmd; Debian: slurm-wlm, munge)"
