"""Open vSwitch in a folder of its own: its classifier in user space, no switch of the system's, no packet."""

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

__all__ = ["FIELDS", "MISSING", "OpenVSwitch"]

PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl")
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
MISSING = next((name for name in PROGRAMS if shutil.which(name, path=PATH) is None), "")
"""A program that is not installed, or nothing."""
FIELDS = ("nw_src", "nw_dst", "pkt_mark")
"""Fields of 32 bits that a flow may match under any mask."""
PRIORITY = re.compile(r"^ 0\. .*priority (\d+)", re.MULTILINE)
STARTS_S = 10


class OpenVSwitch:
    """A bridge without a datapath, whose only port is number 1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folders = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(folder))
        self._environment = {**os.environ, **folders, "PATH": PATH}
        self._daemons = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        database = f"unix:{self._folder}/db.sock"
        self._run("ovsdb-tool", "create", "conf.db", SCHEMA)
        self._daemon("ovsdb-server", "conf.db", "--remote=punix:db.sock", "--unixctl=db.ctl")
        self._wait_for("db.sock")
        self._run("ovs-vsctl", f"--db={database}", "--no-wait", "init")
        dummies = ("--enable-dummy=override", "--disable-system")
        self._daemon("ovs-vswitchd", database, *dummies, "--unixctl=switch.ctl")
        bridge = ("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "fail-mode=secure")
        port = ("add-port", "br0", "p1", "--", "set", "interface", "p1", "type=dummy", "ofport_request=1")
        self._run("ovs-vsctl", f"--db={database}", f"--timeout={STARTS_S}", *bridge, "--", *port)
        self._wait_for("switch.ctl")
        self._control = socket.socket(socket.AF_UNIX)
        self._control.connect(str(self._folder / "switch.ctl"))

    def __exit__(self, *_):
        if hasattr(self, "_control"):
            self._control.close()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(STARTS_S)

    def fill(self, flows):
        """Replace all flows by (priority, {field: (value, mask)})."""
        lines = []
        for priority, match in flows:
            cells = (
                f"{name}={_written(name, value)}/{_written(name, mask)}"
                for name, (value, mask) in match.items()
            )
            lines.append(",".join(["ip", *cells, f"priority={priority}", "actions=output:1"]))
        (self._folder / "flows").write_text("\n".join(lines) + "\n")
        self._run("ovs-ofctl", "--bundle", "replace-flows", f"unix:{self._folder}/br0.mgmt", "flows")

    def found(self, key):
        """Return the priority of the flow that matches {field: value}, None if none does."""
        cells = (f"{name}={_written(name, value)}" for name, value in key.items())
        asked = {"id": 0, "method": "ofproto/trace", "params": ["br0", ",".join(["in_port=1", "ip", *cells])]}
        self._control.sendall(json.dumps(asked).encode())
        answer = b""
        while True:
            answer += self._control.recv(1 << 16)
            try:
                said = json.loads(answer)
            except ValueError:
                continue
            break
        assert said["error"] is None, said
        priority = PRIORITY.search(said["result"])
        assert priority or " 0. No match." in said["result"], said["result"]
        return int(priority[1]) if priority else None

    def _daemon(self, name, *arguments):
        command = [name, *arguments, "-vconsole:off", f"--log-file={self._folder}/{name}.log"]
        self._daemons.append(subprocess.Popen(command, cwd=self._folder, env=self._environment))

    def _run(self, *command):
        subprocess.run(command, cwd=self._folder, env=self._environment, check=True, capture_output=True)

    def _wait_for(self, name):
        ends = time.monotonic() + STARTS_S
        while not (self._folder / name).exists():
            assert time.monotonic() < ends, f"Open vSwitch made no {name} in {STARTS_S} s"
            time.sleep(0.01)


def _written(name, value):
    return str(ipaddress.IPv4Address(value)) if name.startswith("nw_") else f"{value:#x}"
