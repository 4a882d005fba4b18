"""A peer from Debian's packages in a root directory of its own: build/bench-peers/NAME.

The packages of mail servers exclude each other, so they are not installed: they are fetched
(apt-get download) and unpacked into the root, with the libraries of this machine that they need.
A program runs there (chroot) in a mount namespace of its own, with /dev and /proc, its own /etc
and its own users. Nothing outside the root is changed. The root is made once; `rm -r
build/bench-peers` fetches anew.
"""

import re
import shutil
import subprocess

from rig import ROOT, Missing

WHERE = ROOT / "build/bench-peers"

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
mail:x:8:8:mail:/:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
tty:x:5:
mail:x:8:
nogroup:x:65534:
"""
ETC = {"hosts": "127.0.0.1 localhost bench.test\n127.0.0.1 sink.test\n",
       "nsswitch.conf": "hosts: files\n",
       "resolv.conf": "lookup file\nnameserver 127.0.0.1\n", "mailname": "bench.test\n",
       "services": "smtp 25/tcp\n", "host.conf": "multi off\n",
       "protocols": "tcp 6 TCP\nudp 17 UDP\n", "aliases": "postmaster: root\n"}

ENTER = 'mount --rbind /dev "$0/dev" && mount --bind /proc "$0/proc" && exec chroot "$0" "$@"'


def quiet(command, **more):
    return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=300, **more)


class Prefix:
    """users: name -> number, each with a group of its name and number."""

    def __init__(self, name, packages, programs, users):
        self.root = WHERE / name / "root"
        self.name, self.packages, self.programs, self.users = name, packages, programs, users
        if not (WHERE / name / "ready").exists():
            self.make()
        self.version = (WHERE / name / "ready").read_text().strip()

    def make(self):
        shutil.rmtree(WHERE / self.name, ignore_errors=True)
        self.root.mkdir(parents=True)
        cache = WHERE / self.name / "packages"
        cache.mkdir()
        done = quiet(["apt-get", "download", *self.packages], cwd=cache)
        if done.returncode != 0:
            quiet(["apt-get", "update"])
            done = quiet(["apt-get", "download", *self.packages], cwd=cache)
        if done.returncode != 0:
            raise Missing("apt-get download: " + done.stderr.strip().splitlines()[-1][:200])
        for package in sorted(cache.glob("*.deb")):
            if quiet(["dpkg-deb", "-x", package, self.root]).returncode != 0:
                raise Missing("dpkg-deb: " + package.name)
        self.libraries()
        self.furnish()
        first = next(cache.glob(self.packages[0] + "_*.deb"))
        (WHERE / self.name / "ready").write_text(
            quiet(["dpkg-deb", "-f", first, "Version"]).stdout)

    def libraries(self):
        """Copies what the programs need and the packages do not bring, to where it is here."""
        paths = ":".join(sorted({str(path.parent) for path in self.root.rglob("*.so*")}))
        for program in self.programs:
            said = quiet(["ldd", self.root / program.lstrip("/")],
                         env={"LD_LIBRARY_PATH": paths}).stdout
            if "not found" in said:
                raise Missing("a library is missing: " + said)
            for path in re.findall(r"(/\S+) \(0x", said):
                target = self.root / path.lstrip("/")
                if not path.startswith(str(self.root)) and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)

    def furnish(self):
        for name in ("dev", "proc", "etc", "run", "tmp", "root", "var/run", "var/tmp", "var/spool"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "tmp").chmod(0o1777)
        for name, text in ETC.items():
            (self.root / "etc" / name).write_text(text)
        rows = self.users.items()
        (self.root / "etc/passwd").write_text(
            PASSWD + "".join("%s:x:%d:%d::/:/bin/false\n" % (u, n, n) for u, n in rows))
        (self.root / "etc/group").write_text(
            GROUP + "".join("%s:x:%d:\n" % (u, n) for u, n in rows))

    def spool(self, name, owner="root", mode=0o755):
        """A new, empty directory below the root."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        shutil.os.chown(path, self.users.get(owner, 0), self.users.get(owner, 0))
        path.chmod(mode)
        return path

    def command(self, *words):
        """How that program is run in the root."""
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER,
                str(self.root), *map(str, words)]
