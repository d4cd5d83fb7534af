"""A real SLURM on loopback, in a folder of its own, for the tests: munge, slurmctld and slurmd as root, up in a second.

    with SlurmCluster(tmp_path) as cluster:
        cluster.run('sbatch', '--gres=gpu:1', '--wrap=echo $CUDA_VISIBLE_DEVICES')

It shares nothing with a SLURM or munge that the machine may have: own key, sockets, ports and cluster name. There is no
cgroup: a "GPU" is a scheduled name, held by /dev/null or /dev/zero, and a job is confined to nothing. With
`accounting`, a MariaDB and slurmdbd are started as well, and another cluster `beside` this one is known by its name.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = 'munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scancel', 'scontrol', 'sinfo'
ACCOUNTS = 'slurmdbd', 'mariadbd', 'mariadb-install-db', 'sacctmgr'
NODE = 'localhost'
LIMIT = 30  # s for a start or a stop
STAND_INS = '/dev/null', '/dev/zero', '/dev/full', '/dev/random'  # for GPUs: slurmd only asks that they exist
# unix sockets' names end at 107 bytes; slurmstepd's is the longest, <spool>/localhost_<job>.4294967291
LONGEST_SPOOL = 107 - len(f'/{NODE}_1234567.4294967291')
ACTIVE = ('PENDING', 'RUNNING', 'CONFIGURING', 'COMPLETING', 'REQUEUED', 'REQUEUE_HOLD', 'SUSPENDED', 'STOPPED')
# name in a job's entry -> squeue's name of the field; id is "12" or "12_3", job_id that of the task alone
FIELDS = dict(
    id='JobArrayID',
    job_id='JobID',
    array_job_id='ArrayJobID',
    array_task_id='ArrayTaskID',
    state='State',
    reason='Reason',
    restarts='RestartCnt',
    dependency='Dependency',
    name='Name',
)
SEPARATOR = '\x1f'  # in no job's name


def find_program(name):
    """Path of a program on PATH or in sbin, where Debian keeps the daemons; None where it is not installed."""
    return shutil.which(name) or shutil.which(name, path='/usr/sbin:/usr/local/sbin:/sbin')


def why_not(accounting=False):
    """The reason why a cluster cannot be started here, or None."""
    missing = [program for program in PROGRAMS + ACCOUNTS * accounting if find_program(program) is None]
    if missing:
        packages = 'slurm-wlm, munge' + ', slurmdbd, mariadb-server-core, mariadb-client-core' * accounting
        return f'SLURM is not installed (missing: {", ".join(missing)}; Debian: {packages})'
    return None if os.geteuid() == 0 else 'a SLURM that runs jobs can be started by root only'


def free_port():
    """A port that is free, below the range from which outgoing connections take theirs."""
    while True:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('', port := random.SystemRandom().randrange(20_000, 32_000)))
            except OSError:
                continue
            return port


class SlurmCluster:
    """A SLURM cluster of one node, from `with` to the end of its block."""

    def __init__(
        self,
        folder,  # everything is written here; an existing folder or one to be made
        cpus=32,  # that the node claims to have, whatever the machine has
        gpus=2,  # stand-ins, at most 4
        memory=64_000,  # MB that the node claims to have
        conf=(),  # settings of slurm.conf that win over those here
        partitions=(('debug', ''),),  # name and settings in slurm.conf's words; the first is the default one
        accounting=False,  # whether to start a database of accounts
        beside=None,  # a cluster that has one, to share it
    ):
        self.folder = Path(folder).resolve()
        self.node = f'NodeName={NODE} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN'
        self.gpus, self.extra, self.partitions = gpus, dict(conf), dict(partitions)
        self.conf = self.folder / 'slurm.conf'
        self.daemons, self.arguments, self.short = {}, {}, None
        self.accounts, self.beside = beside.accounts if beside else free_port() if accounting else None, beside

    def settings(self):
        """slurm.conf without nodes and partitions."""
        loopback = socket.gethostbyname(socket.gethostname()).startswith('127.')
        return dict(
            ClusterName=self.name,
            SlurmctldHost=f'{NODE}(127.0.0.1)',
            SlurmUser='root',
            SlurmdUser='root',
            SlurmctldPort=free_port(),
            SlurmdPort=free_port(),
            # slurmd and slurmstepd bind to what the host's name means, which may be elsewhere
            CommunicationParameters='NoCtldInAddrAny' + ',NoInAddrAny' * loopback,
            AuthType='auth/munge',
            CredType='cred/munge',
            # cred_expire is also how long a requeued job must wait: 120 s by default, 5 s the least allowed
            AuthInfo=f'socket={self.munge_socket},cred_expire=5',
            StateSaveLocation=self.folder / 'state',
            SlurmdSpoolDir=self.spool,
            SlurmctldPidFile=self.folder / 'slurmctld.pid',
            SlurmdPidFile=self.folder / 'slurmd.pid',
            SlurmdLogFile=self.folder / 'slurmd.log',
            ProctrackType='proctrack/linuxproc',
            TaskPlugin='task/none',
            SwitchType='switch/none',
            MpiDefault='none',
            AccountingStorageType=f'accounting_storage/{"slurmdbd" if self.accounts else "none"}',
            AccountingStorageHost=NODE,
            AccountingStoragePort=self.accounts or 0,
            AccountingStoragePass=self.munge_socket,
            JobCompType='jobcomp/none',
            MailProg='/bin/true',
            SelectType='select/cons_tres',
            SelectTypeParameters='CR_CPU',
            GresTypes='gpu',
            SlurmdParameters='config_overrides',  # the node has the CPUs that slurm.conf says
            ReturnToService=2,
            JobRequeue=1,
            OverTimeLimit=0,
            KillWait=2,
            # by default a job that became eligible by time is looked at once a minute
            SchedulerType='sched/backfill',
            SchedulerParameters='sched_interval=1,bf_interval=1,batch_sched_delay=0',
        ) | self.extra

    def prepare(self):
        """The folders, slurm.conf and gres.conf; where the folder's name is too long for sockets, a short one."""
        # jobs carry the cluster's name in their environment; by it the processes they leave are found
        self.name = f'test{os.getpid()}{random.SystemRandom().randrange(10**6):06d}'
        (self.folder / 'state').mkdir(parents=True)
        self.spool = self.folder / 'spool'
        if len(os.fsencode(self.spool)) > LONGEST_SPOOL:
            self.short = Path(tempfile.mkdtemp(prefix='slurm-', dir='/tmp'))
            self.spool = self.short / 'spool'
        self.spool.mkdir()
        self.munge_socket = (self.beside or self).spool.parent / 'munge.socket'
        partitions = [
            f'PartitionName={name} Nodes=ALL Default={"NO" if n else "YES"} MaxTime=INFINITE State=UP {more}'
            for n, (name, more) in enumerate(self.partitions.items())
        ]
        conf = '\n'.join([*(f'{k}={v}' for k, v in self.settings().items()), self.node, *partitions, ''])
        gres = ''.join(f'Name=gpu File={device}\n' for device in STAND_INS[: self.gpus])
        self.conf.write_text(conf, encoding='utf-8')
        (self.folder / 'gres.conf').write_text(gres, encoding='utf-8')

    def __enter__(self):
        if reason := why_not():
            raise RuntimeError(reason)
        try:
            self.prepare()
            if not self.beside:
                self.start_munge()
            if self.accounts:
                self.start_accounts()
            self.start('slurmctld', '-D', '-f', self.conf)
            self.start('slurmd', '-D', '-f', self.conf, '-N', NODE)
            self.until(lambda: self.node_state() == 'idle', 'the node does not become idle')
        except BaseException:
            self.stop()
            raise
        return self

    def start_munge(self):
        """A munge of our own."""
        key, pid, seed = (self.folder / f'munge.{name}' for name in ('key', 'pid', 'seed'))
        key.touch(0o600)
        key.write_bytes(os.urandom(64))
        # --force: munged wants a socket's folder that everyone may enter, pytest's are for their owner only
        files = f'--key-file={key}', f'--socket={self.munge_socket}', f'--pid-file={pid}', f'--seed-file={seed}'
        self.start('munged', '--foreground', '--force', *files)
        self.until(self.munge_socket.exists, 'munged has no socket')

    def start_accounts(self):
        """A database, and the daemon through which clusters use it; this cluster's name in it."""
        if not self.beside:
            data, socket_ = self.folder / 'accounts', self.spool.parent / 'mysql.socket'
            subprocess.run(['mariadb-install-db', '--no-defaults', f'--datadir={data}', '--user=root',
                            '--auth-root-authentication-method=socket'], check=True, stdout=subprocess.DEVNULL)
            self.start('mariadbd', '--no-defaults', f'--datadir={data}', '--user=root', f'--socket={socket_}',
                       '--skip-networking', '--innodb-flush-log-at-trx-commit=0')
            self.until(socket_.exists, 'the database has no socket')
            words = dict(AuthType='auth/munge', AuthInfo=f'socket={self.munge_socket}', DbdHost=NODE,
                         DbdAddr='127.0.0.1', DbdPort=self.accounts, SlurmUser='root', StorageHost=NODE,
                         StorageType='accounting_storage/mysql', StorageUser='root', PidFile=self.folder / 'dbd.pid')
            conf = self.folder / 'slurmdbd.conf'
            conf.write_text('\n'.join(f'{k}={v}' for k, v in words.items()), encoding='utf-8')
            conf.chmod(0o600)
            self.start('slurmdbd', '-D')
            self.until(lambda: not socket.socket().connect_ex(('127.0.0.1', self.accounts)), 'slurmdbd does not answer')
        self.run('sacctmgr', '-i', 'add', 'cluster', self.name)

    def start(self, name, *arguments):
        """Start a daemon as our child, in a session of its own: it is stopped in order, not by the terminal's Ctrl-C.
        Where the tests themselves are killed, the kernel stops it."""
        self.arguments[name] = arguments
        with (self.folder / f'{name}.out').open('wb') as out:
            self.daemons[name] = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'TERM', find_program(name), *map(str, arguments)],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,
            )

    def kill_and_restart(self, name):
        """End a daemon by SIGKILL, and start it again as systemd would."""
        self.daemons[name].kill()
        self.daemons[name].wait()
        self.start(name, *self.arguments[name])
        self.until(lambda: self.node_state() not in ('', 'down'), f'{name} does not come back')

    def node_state(self):
        """As sinfo names it; '' while the controller does not answer."""
        done = self.run('sinfo', '-h', '-N', '-o', '%T', check=False)
        return done.stdout.split()[0] if done.returncode == 0 and done.stdout else ''

    def until(self, true, complaint):
        """Wait until something is true; say what the logs say when it does not come true or a daemon dies."""
        end = time.monotonic() + LIMIT
        while not true():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = [str(path.read_bytes()[-2000:]) for path in sorted(self.folder.glob('*.out'))]
                raise TimeoutError('\n'.join([complaint, f'ended: {dead}', *logs]))
            time.sleep(0.05)

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Cancel the jobs, stop the daemons, and make sure that no process of the cluster lives."""
        with suppress(RuntimeError):  # the controller does not answer; what follows does without it
            if 'slurmd' in self.daemons:
                self.cancel_all()
        for name in 'slurmd', 'slurmctld':
            self.end(name)
        left = self.kill_leftovers()
        for name in 'slurmdbd', 'mariadbd', 'munged':
            self.end(name)
        if self.short:
            shutil.rmtree(self.short, ignore_errors=True)
        if left:
            raise RuntimeError(f'processes of {self.folder} cannot be ended: {left}')

    def cancel_all(self):
        """Again and again: a job may requeue itself while it is being cancelled."""
        end = time.monotonic() + LIMIT
        while self.active() and time.monotonic() < end:
            self.run('scancel', '--user=root', check=False)
            time.sleep(0.2)

    def end(self, name):
        """End a daemon that we started, with its helpers, and wait for it."""
        if daemon := self.daemons.pop(name, None):
            daemon.terminate()
            try:
                daemon.wait(LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()

    def is_ours(self, process):
        """Whether a process is this cluster's slurmstepd, or carries the environment of a job of this cluster."""
        try:
            stepd = (process.name(), process.cwd()) == ('slurmstepd', str(self.folder))
            return stepd or process.environ().get('SLURM_CLUSTER_NAME') == self.name
        except psutil.Error:
            return False

    def leftovers(self):
        """Processes of jobs that live: slurmstepd, all below it, and all that bear the cluster's name."""
        found = set()
        for process in filter(self.is_ours, psutil.process_iter()):
            with suppress(psutil.NoSuchProcess):
                found |= {process, *process.children(recursive=True)}
        return found - {psutil.Process()}

    def kill_leftovers(self):
        """Kill what jobs have left running; returns what still lives after that."""
        end = time.monotonic() + LIMIT
        while (left := self.leftovers()) and time.monotonic() < end:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.05)
        return left

    def environment(self):
        """This process's environment, turned to this cluster: no trace of a SLURM around the tests."""
        outer = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'SBATCH_', 'SQUEUE_', 'SCANCEL_'))}
        return outer | {'SLURM_CONF': str(self.conf), 'MYSQL_UNIX_PORT': str(self.spool.parent / 'mysql.socket')}

    def run(self, *command, check=True):
        """A command on this cluster, ended, with its output; an error where it fails."""
        done = subprocess.run([str(c) for c in command], text=True, capture_output=True, env=self.environment())
        if check and done.returncode:
            raise RuntimeError(f'{command}: exit {done.returncode}\n{done.stdout}{done.stderr}')
        return done

    def jobs(self):
        """All jobs, ended ones included, as dicts of text with FIELDS as keys; one entry for each array task."""
        names = ','.join(f'{name}:{SEPARATOR}' for name in FIELDS.values())
        lines = self.run('squeue', '--all', '--array', '--noheader', '--states=all', '-O', names).stdout.splitlines()
        return [dict(zip(FIELDS, line.split(SEPARATOR), strict=False)) for line in lines]

    def active(self):
        """The jobs that are pending, running or ending; a dependency never satisfied is pending."""
        return [job for job in self.jobs() if job['state'] in ACTIVE]
