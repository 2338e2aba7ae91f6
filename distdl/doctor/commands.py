"""`distdl doctor`: its arguments, and which checks it runs. Imports torch only when it looks at torch.

one machine:      all checks of it
as workers:       those of every machine, gathered, and those between the machines; rank 0 tells
"""

import argparse
import json
from pathlib import Path

from distdl.doctor.check import Check, exit_code, shown
from distdl.errors import UserError
from distdl.run.places import runs_root

Arguments = argparse.Namespace


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--hosts", metavar="H,...", help="other machines to which this one needs a way")
    command.add_argument("--data", type=Path, metavar="FOLDER", help="where the data is (default: data/, if there)")
    command.add_argument(
        "--wait-s", type=float, default=60.0, metavar="S", help="for the other workers, if there are any (default: 60)"
    )
    command.add_argument("--json", action="store_true", help="for programs")


def doctor(arguments: Arguments) -> int:
    """0 if all is well or to look at, 1 if something has failed."""
    from distdl.comm.world import detect

    hosts = _hosts(arguments.hosts)
    if not 0 < arguments.wait_s <= 3600:
        raise UserError("more than 0 and at most 3600 s", where="command line --wait-s")
    world = detect()
    speaks = world is None or world.local_rank == 0  # several at once would measure each other
    checks = local_checks(arguments.data) if speaks else []
    if hosts:
        from distdl.doctor.network import check_hosts

        checks += check_hosts(hosts)
    if world is not None and world.world_size > 1:
        from distdl.doctor.between import check_together

        checks = check_together(world, checks, arguments.wait_s)
        if world.rank != 0:
            return exit_code(checks)
    elif not hosts:
        from distdl.doctor.network import check_alone

        checks.append(check_alone())
    print(json.dumps([check.as_row() for check in checks], indent=2) if arguments.json else shown(checks))
    return exit_code(checks)


def local_checks(data: Path | None) -> list[Check]:
    """Of this machine, without its network."""
    from distdl.doctor import devices, disk, machine, services

    folders = [data] if data is not None else [Path("data")] if Path("data").is_dir() else []
    return [
        *devices.all_checks(),
        *machine.all_checks(),
        disk.check_runs(runs_root()),
        *(disk.check_data(folder) for folder in folders),
        disk.check_quota(),
        *services.all_checks(),
    ]


def _hosts(text: str | None) -> list[str]:
    if text is None:
        return []
    hosts = [host.strip() for host in text.split(",")]
    if not all(hosts):
        raise UserError(f"'{text}' is not a list of hosts", where="command line --hosts", fix="Such as node1,node2.")
    return hosts
