"""A real SLURM on loopback, in a folder of its own, for the tests.

> one node, munge + slurmctld + slurmd as root (Debian's 22.05, 2 cores): up in about 1 s, down in 0.2 s,
> and in 5 s where a job must be killed because it ignores SIGTERM

    with SlurmCluster(tmp_path) as cluster:
        cluster.run("sbatch", "--gres=gpu:1", "--wrap=echo $CUDA_VISIBLE_DEVICES")
        cluster.wait(30)

It shares nothing with a SLURM or munge that the machine may have: own key, sockets, ports and
cluster name. There is no accounting (no sacct) and no cgroup: a "GPU" is a scheduled name, held
by /dev/null or /dev/zero, and a job is confined to nothing.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

DAEMONS = "munged", "slurmctld", "slurmd"
CLIENTS = "sbatch", "squeue", "scancel", "scontrol", "sinfo"
NODE = "localhost"
START_LIMIT, STOP_LIMIT = 30, 20  # s
# sbin is not on every user's PATH; Debian keeps the daemons there
SBIN = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", "/sbin"])
# the devices that stand in for GPUs: slurmd only asks that they exist
STAND_INS = "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"
# unix socket names end at 107 bytes; slurmstepd's is the longest, <spool>/localhost_<job>.4294967291
LONGEST_SPOOL = 107 - len(f"/{NODE}_1234567.4294967291")
# the states in which SLURM has nothing more to do for a job
ENDED = {
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
}
# name in a job's entry -> squeue's name of the field; id is "12" or "12_3", job_id that of the task alone;
# exit_code is a wait status: 256 is exit 1, 9 is killed by SIGKILL
FIELDS = dict(
    id="JobArrayID",
    job_id="JobID",
    array_job_id="ArrayJobID",
    array_task_id="ArrayTaskID",
    state="State",
    reason="Reason",
    restarts="RestartCnt",
    exit_code="exit_code",
    gres="tres-per-node",
    dependency="Dependency",
    time_limit="TimeLimit",
    comment="Comment",
    workdir="WorkDir",
    name="Name",
)
SEPARATOR = "\x1f"  # in no job's name


def find_program(name):
    "Path of a program on PATH or in sbin, None where it is not installed"
    return shutil.which(name) or shutil.which(name, path=SBIN)


def why_not():
    "The reason why a cluster cannot be started here, or None"
    missing = [p for p in DAEMONS + CLIENTS if find_program(p) is None]
    if missing:
        return f"SLURM is not installed (missing: {', '.join(missing)}; Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "a SLURM that runs jobs can be started by root only"
    if not Path("/proc/self/stat").exists():
        return "SLURM needs /proc to follow a job's processes"


def free_ports(n):
    "n ports free on loopback, below the ephemeral range so that no outgoing connection takes them meanwhile"
    # not the global generator: a seeded test would pick the same ports as its neighbour
    found = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == n:
            return found
    raise RuntimeError(f"fewer than {n} free ports between 20000 and 32000")


def on_loopback(host):
    "Whether a host name means this machine's loopback address"
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


def conf_text(settings):
    "Lines of slurm.conf from a dict"
    return "\n".join(f"{k}={v}" for k, v in settings.items()) + "\n"


def tail(path, lines=15):
    "The last lines of a log, with its name"
    text = Path(path).read_text(errors="replace",
                                encoding='utf-8').splitlines() if Path(path).exists() else ["(no such file)"]
    return f"--- {Path(path).name}\n" + "\n".join(text[-lines:])


def processes():
    "pid -> parent's pid, of all processes that live (zombies are dead)"
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(encoding='utf-8').rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state not in "ZX":
            found[int(stat.parent.name)] = int(parent)
    return found


def environ_of(pid):
    "The environment with which a process was started"
    try:
        items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(i.decode(errors="replace").split("=", 1) for i in items if b"=" in i)


class SlurmCluster:
    "A SLURM cluster of one node, from `with` to the end of its block"

    def __init__(
        self,
        folder,  # everything is written here; an existing folder or one to be made
        cpus=32,  # CPUs the node claims to have, whatever the machine has
        gpus=2,  # stand-in GPUs, 0 to 6
        max_array_size=1001,  # SLURM's own default: task ids end one below
        memory=64_000,  # MB the node claims to have; nothing is enforced
        extra_conf=None,  # dict of slurm.conf settings that win over those here
        partitions=None,  # name -> settings in slurm.conf's words; the first is the default one
    ):
        if gpus > len(STAND_INS):
            raise ValueError(f"gpus={gpus}: there are {len(STAND_INS)} stand-in devices")
        self.folder = Path(folder).resolve()
        self.cpus, self.gpus, self.memory, self.max_array_size = cpus, gpus, memory, max_array_size
        self.extra_conf = dict(extra_conf or {})
        self.partitions = dict(partitions or {"debug": ""})
        self.conf = self.folder / "slurm.conf"
        self.daemons = {}  # name -> Popen, in the order of their start
        self.arguments = {}  # name -> those of its start, for a restart

    # -- the configuration

    def settings(self):
        "slurm.conf without nodes and partitions"
        ctld_port, slurmd_port = free_ports(2)
        return (
            dict(
                ClusterName=self.name,
                SlurmctldHost=f"{NODE}(127.0.0.1)",
                SlurmUser="root",
                SlurmdUser="root",
                SlurmctldPort=ctld_port,
                SlurmdPort=slurmd_port,
                CommunicationParameters=self.binding(),
                AuthType="auth/munge",
                CredType="cred/munge",
                # cred_expire is also how long a requeued job must wait: 120 s by default, 5 s the least allowed
                AuthInfo=f"socket={self.munge_socket},cred_expire=5",
                StateSaveLocation=self.folder / "state",
                SlurmdSpoolDir=self.spool,
                SlurmctldPidFile=self.folder / "slurmctld.pid",
                SlurmdPidFile=self.folder / "slurmd.pid",
                SlurmdLogFile=self.folder / "slurmd.log",  # slurmstepd's; what the daemons say is in their .out
                SlurmctldDebug="verbose",
                SlurmdDebug="verbose",
                LogTimeFormat="iso8601_ms",
                ProctrackType="proctrack/linuxproc",
                TaskPlugin="task/none",
                SwitchType="switch/none",
                MpiDefault="none",
                JobAcctGatherType="jobacct_gather/none",
                AccountingStorageType="accounting_storage/none",
                JobCompType="jobcomp/none",
                MailProg="/bin/true",
                SelectType="select/cons_tres",
                SelectTypeParameters="CR_CPU",
                GresTypes="gpu",
                # the node has the CPUs that slurm.conf says, not those that slurmd counts
                SlurmdParameters="config_overrides",
                ReturnToService=2,
                JobRequeue=1,
                OverTimeLimit=0,
                KillWait=2,
                MaxArraySize=self.max_array_size,
                MinJobAge=300,
                # by default a job that became eligible by time is looked at once a minute
                SchedulerType="sched/backfill",
                SchedulerParameters="sched_interval=1,bf_interval=1,batch_sched_delay=0",
            )
            | self.extra_conf
        )

    def binding(self):
        "Bind to loopback only; slurmd and slurmstepd bind to what the host's name means, which may be elsewhere"
        return "NoCtldInAddrAny" + (",NoInAddrAny" if on_loopback(socket.gethostname()) else "")

    def write_conf(self):
        "slurm.conf and gres.conf; SLURM looks for the second beside the first"
        gres = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        self.conf.write_text(
            conf_text(self.settings())
            + f"NodeName={NODE} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory={self.memory}{gres} State=UNKNOWN\n"
            + "".join(
                f"PartitionName={name} Nodes=ALL Default={'NO' if number else 'YES'} MaxTime=INFINITE State=UP {more}\n"
                for number, (name, more) in enumerate(self.partitions.items())
            ),
            encoding='utf-8',
        )
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={d}\n" for d in STAND_INS[: self.gpus]),
                                               encoding='utf-8')

    def make_folders(self):
        "The folder, its parts, and where its name is too long for sockets a short folder beside it"
        # a controller refuses the state of an earlier cluster
        for part in "state", "spool":
            shutil.rmtree(self.folder / part, ignore_errors=True)
        (self.folder / "state").mkdir(parents=True)
        self.spool = self.folder / "spool"
        self.short = None
        if len(os.fsencode(self.spool)) > LONGEST_SPOOL:
            self.short = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
            self.spool = self.short / "spool"
        self.spool.mkdir(exist_ok=True)
        self.munge_socket = self.spool.parent / "munge.socket"

    # -- start

    def __enter__(self):
        reason = why_not()
        if reason:
            raise RuntimeError(reason)
        # jobs carry the cluster's name in their environment; by it the processes they leave are found
        self.name = f"test{os.getpid()}{random.SystemRandom().randrange(10**6):06d}"
        self.make_folders()
        try:
            self.write_conf()
            self.start_munge()
            self.start_daemon("slurmctld", "-D", "-f", self.conf)
            self.start_daemon("slurmd", "-D", "-f", self.conf, "-N", NODE)
            self.wait_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def start_munge(self):
        "A munge of our own: key of its own, socket in the folder"
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(64))
        # --force: munged wants a socket folder that everyone may enter, pytest's are for their owner only
        self.start_daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={self.munge_socket}",
            f"--pid-file={self.folder / 'munged.pid'}",
            f"--seed-file={self.folder / 'munged.seed'}",
        )
        self.until(self.munge_socket.exists, START_LIMIT, "munged has no socket")

    def start_daemon(self, name, *args):
        "Start a daemon in the foreground, as our child, so that we know when it is gone"
        # a session of its own keeps it out of the terminal's Ctrl-C: it is stopped in order, by stop();
        # where the tests themselves are killed, setpriv has the kernel stop it
        self.arguments[name] = args
        with_us = [setpriv, "--pdeathsig", "TERM"] if (setpriv := find_program("setpriv")) else []
        with (self.folder / f"{name}.out").open("wb") as out:
            self.daemons[name] = subprocess.Popen(
                [*with_us, find_program(name), *map(str, args)],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,
            )

    def kill_and_restart(self, name):
        "End a daemon by SIGKILL, and start it again as systemd would"
        self.daemons[name].kill()
        self.daemons[name].wait()
        self.start_daemon(name, *self.arguments[name])
        self.until(lambda: self.node_state() not in ("", "down"), START_LIMIT, f"{name} does not come back")

    def wait_idle(self):
        "Until the node takes jobs"
        self.until(lambda: self.node_state() == "idle", START_LIMIT, "the node does not become idle")

    def node_state(self):
        "State of the node as sinfo names it, '' while the controller does not answer"
        done = self.run("sinfo", "-h", "-N", "-o", "%T", check=False)
        states = set(done.stdout.split())  # one for each partition
        return states.pop() if done.returncode == 0 and len(states) == 1 else ""

    def until(self, true, limit, complaint):
        "Poll until something is true; say what the logs say when it does not come true or a daemon dies"
        end = time.monotonic() + limit
        while not true():
            dead = [f"{n} ended with {d.returncode}" for n, d in self.daemons.items() if d.poll() is not None]
            if dead or time.monotonic() > end:
                raise TimeoutError("\n".join([f"{complaint} after {limit} s", *dead, self.log_tails()]))
            time.sleep(0.05)

    def log_tails(self):
        "The ends of all logs"
        return "\n".join(tail(p) for p in [*sorted(self.folder.glob("*.out")), self.folder / "slurmd.log"])

    # -- stop

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        "Cancel the jobs, stop the daemons, and make sure that no process of the cluster lives"
        try:
            if {"slurmctld", "slurmd"} <= set(self.daemons):
                self.cancel_all()
        except RuntimeError:
            pass  # the controller does not answer; what follows is less polite and does without it
        finally:
            for name in ("slurmctld", "slurmd"):
                self.stop_daemon(name)  # now nothing new starts
            left = self.kill_leftovers()
            self.stop_daemon("munged")
            if self.short:
                shutil.rmtree(self.short, ignore_errors=True)
        if left:
            raise RuntimeError(f"processes of {self.folder} cannot be ended: {left}")

    def cancel_all(self):
        "Cancel every job and give them the time to clean up that a cluster gives (KillWait)"
        end = time.monotonic() + STOP_LIMIT
        while self.active() and time.monotonic() < end:
            # again and again: a job may requeue itself while it is being cancelled
            self.run("scancel", "--user=root", check=False)
            time.sleep(0.2)

    def stop_daemon(self, name):
        "End a daemon that we started and wait for it"
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)  # with its helpers: the session is its own
            daemon.wait()

    def is_ours(self, pid):
        "Whether a process is this cluster's slurmstepd, or carries a job's environment of this cluster"
        try:
            stepd = (
                Path(f"/proc/{pid}/comm").read_text(encoding='utf-8').strip() == "slurmstepd"
                and Path(f"/proc/{pid}/cwd").resolve() == self.folder
            )  # inherited from slurmd
        except OSError:
            return False
        # the name is set in jobs only: what a test itself starts with `env` has SLURM_CONF alone
        return stepd or environ_of(pid).get("SLURM_CLUSTER_NAME") == self.name

    def leftovers(self):
        "Processes of jobs: slurmstepd, all below it, and all that bear the cluster's name"
        parents = processes()
        found = {pid for pid in parents if self.is_ours(pid)}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {os.getpid()}

    def kill_leftovers(self):
        "Kill what jobs have left running; returns what still lives after that"
        end = time.monotonic() + STOP_LIMIT
        while (left := self.leftovers()) and time.monotonic() < end:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        return left

    # -- use

    @property
    def env(self):
        "What a program needs in its environment to find this cluster"
        return {"SLURM_CONF": str(self.conf)}

    def environment(self):
        "This process's environment, turned to this cluster: no trace of a SLURM around the tests"
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH_", "SQUEUE_", "SCANCEL_"))}
        return outer | self.env

    def run(self, *cmd, check=True, env=None, **kwargs):
        "subprocess.run on this cluster: text, output captured, an error where it fails; env is added"
        done = subprocess.run(
            [str(c) for c in cmd], text=True, capture_output=True, env=self.environment() | (env or {}), **kwargs
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, cmd))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def sbatch(self, *args, **kwargs):
        "Submit; returns the job id as text"
        return self.run("sbatch", "--parsable", *args, **kwargs).stdout.strip()

    def jobs(self):
        "All jobs, ended ones included, as dicts of text with FIELDS as keys; one entry for each array task"
        names = ",".join(f"{f}:{SEPARATOR}" for f in FIELDS.values())
        lines = self.run("squeue", "--all", "--array", "--noheader", "--states=all", "-O", names).stdout.splitlines()
        return [dict(zip(FIELDS, line.split(SEPARATOR))) for line in lines]

    def active(self):
        "The jobs that are pending, running or ending; a dependency never satisfied is pending"
        return [j for j in self.jobs() if j["state"] not in ENDED]

    def wait(self, timeout):
        "Until no job is active; returns jobs()"
        end = time.monotonic() + timeout
        while active := self.active():
            if time.monotonic() > end:
                listing = "\n".join(map(str, active))
                raise TimeoutError(f"after {timeout} s these have not ended:\n{listing}\n{self.log_tails()}")
            time.sleep(0.2)
        return self.jobs()
