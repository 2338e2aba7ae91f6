"""Ways to start a run of two workers: each starts a command, on two hosts or on one, and tells what becomes of it."""

import os
import subprocess
import sys
import time

from mpis import AS_ROOT, OPEN_MPI

DISTDL = (sys.executable, "-m", "distdl")
TORCHRUN_PORT = 29511


class Way:
    """Output goes to a file, so that it can be read while it runs."""

    second = "b"  # the host of rank 1, or what stands for it

    def __init__(self, place, hosts, cluster):
        self.place, self.hosts, self.cluster = place, hosts, cluster
        self.environment = {**place.environment, **AS_ROOT, "OMP_NUM_THREADS": "1"}
        self.arguments = []
        self._processes = []

    def start(self, config):
        """Of the config, with `self.arguments` for `distdl train`."""
        for number, command in enumerate(self.commands(config)):
            with (self.place.path / f"said-{number}").open("wb") as out:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        cwd=self.place.path,
                        env={**os.environ, **self.environment},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )

    def commands(self, config):
        raise NotImplementedError

    def output(self):
        return "".join(path.read_text(errors="replace") for path in sorted(self.place.path.glob("said-*")))

    def has_ended(self):
        return all(process.poll() is not None for process in self._processes)

    def code(self):
        """Of the first that has failed, or 0."""
        return next((process.returncode for process in self._processes if process.returncode), 0)

    def stop(self):
        for process in self._processes:
            process.kill()
            process.wait()

    def on(self, host, command):
        """A command that runs on one of the hosts, in the folder of the place."""
        here = f'hostname {host}; cd "$0"; exec "$@"'
        return self.hosts.network.command(
            host, ["unshare", "--uts", "bash", "-c", here, str(self.place.path), *map(str, command)]
        )


class Local(Way):
    second = "rank 1"

    def commands(self, config):
        return [self.on("a", [*DISTDL, "train", config, "--nproc", "2", *self.arguments])]


class Ssh(Way):
    to = "a:1,b:1"

    def commands(self, config):
        self.environment |= {**self.hosts.environment, "DISTDL_FORWARD": "HANG,HOST_B,SETS"}
        return [self.on("head", [*DISTDL, "train", config, "--hosts", self.to, *self.arguments])]


class Mpirun(Way):
    to = "a:1,b:1"

    def commands(self, config):
        agent = self.place.path / "agent"
        agent.write_text(f'#!/bin/bash\nexec ssh -F {self.hosts.folder}/ssh_config "$@"\n')
        agent.chmod(0o755)
        options = ["--mca", "plm", "rsh", "--mca", "plm_rsh_agent", agent, "--host", self.to, "-n", "2"]
        for layer in ("btl", "oob"):
            options += ["--mca", f"{layer}_tcp_if_include", "eth0"]
        for name in ("HANG", "PYTHONPATH", "OMP_NUM_THREADS", "DISTDL_TEST", "SETS"):
            options += ["-x", name] if name in self.environment else []
        return [self.on("head", [*OPEN_MPI.mpirun, *options, *DISTDL, "train", config, *self.arguments])]


class Torchrun(Way):
    master = None
    options = ()
    is_first_enough = False  # where a torchrun fails before it starts distdl, the other one waits for it for long

    def has_ended(self):
        if self.is_first_enough and self.code():
            self.stop()
        return super().has_ended()

    def commands(self, config):
        master = self.master or self.hosts.addresses["a"]
        nodes = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", master, "--master-port", TORCHRUN_PORT]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *nodes, *self.options]
        train = ["-m", "distdl", "train", config, *self.arguments]
        return [self.on(host, [*torchrun, "--node-rank", number, *train]) for number, host in enumerate("ab")]


class Slurm(Way):
    """A job of `distdl submit`."""

    second = "node2"

    def __init__(self, place, hosts, cluster):
        super().__init__(place, hosts, cluster)
        self.number = None
        self._ended = None

    def start(self, config):
        options = ["--nodes", "2", "--ntasks-per-node", "1", "slurm.sbatch={nodelist: 'node[1-2]', requeue: false}"]
        done = self.cluster.run(
            [*DISTDL, "submit", str(config), *options, *map(str, self.arguments)], self.place.path, self.environment
        )
        assert not done.returncode, done.stdout + done.stderr
        self.number = done.stdout.split("submitted job ")[1].partition(":")[0]

    def output(self):
        log = self.place.path / f"runs/run/slurm/{self.number}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def has_ended(self):
        if self._ended is None:
            job = self.cluster.job(self.number)
            if job["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"):
                self._ended = job
        return self._ended is not None

    def code(self):
        return int(self._ended["ExitCode"].partition(":")[0])

    def stop(self):
        self.cluster.cancel_all()


WAYS = {"local": Local, "ssh": Ssh, "Slurm": Slurm, "mpirun": Mpirun, "torchrun": Torchrun}


def until(is_so, seconds):
    """When it was so (time.monotonic), or None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return time.monotonic()
        time.sleep(0.1)
    return None
