"""The seccomp program: which system calls an interpreter may not make. They fail with EPERM.

It lists what is refused, and refuses every call that is newer than this list; whatever is left acts on the
interpreter's own memory, time and files.
"""

from __future__ import annotations

import os
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CEILING = 462  # mseal: later calls are unknown here
_X32 = 0x40000000
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3, _CLONE_THREAD = 435, 0x10000
# Signals to others by way of a descriptor's owner: fcntl(F_SETOWN, F_SETOWN_EX), ioctl(FIOSETOWN, SIOCSPGRP)
_OWNERS = {"fcntl": ((72, 25), (8, 15)), "ioctl": ((16, 29), (0x8901, 0x8902))}
# Pairs of datagram sockets can send to any address; pairs of streams only to one another
_SOCKETPAIR, _STREAM = (53, 199), 1
# That the process dies with its keeper cannot be undone: prctl(PR_SET_PDEATHSIG)
_PRCTL, _PDEATHSIG = (157, 167), 1
_EPERM, _ENOSYS = 1, 38
# name: (x86_64, aarch64); None where there is no such call; one number since Linux 5.1
_REFUSED: dict[str, tuple[int | None, int | None] | int] = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "listen": (50, 201),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440,
    "move_pages": (279, 239), "migrate_pages": (256, 238),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "mount_setattr": 442, "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "mknod": (133, None), "mknodat": (259, 33), "fanotify_init": (300, 262),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "memfd_create": (319, 279), "memfd_secret": 447, "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190),
    "semop": (65, 193), "semtimedop": (220, 192), "semctl": (66, 191), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "personality": (135, 92), "modify_ldt": (154, None), "ioperm": (173, None), "iopl": (172, None),
    "clock_settime": (227, 112), "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
}  # fmt: skip
# Where other processes can be named: signals and limits of others
_REFUSED_WITHOUT_PIDS: dict[str, tuple[int | None, int | None] | int] = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "get_robust_list": (274, 100), "process_mrelease": 448,
}  # fmt: skip
# Where the machine's files can be named: what Landlock does not cover
_REFUSED_WITHOUT_VIEW: dict[str, tuple[int | None, int | None] | int] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": 452, "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "truncate": (76, 45),
}  # fmt: skip


def program(*, threads: bool, view: bool, pids: bool) -> bytes:
    """For this machine. OSError on an architecture that is not known here."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(f"architecture {machine} is not supported")
    tables = [_REFUSED] + ([] if pids else [_REFUSED_WITHOUT_PIDS]) + ([] if view else [_REFUSED_WITHOUT_VIEW])
    column = list(_ARCHITECTURES).index(machine)
    every = [n if isinstance(n, int) else n[column] for table in tables for n in table.values()]
    code = [_load(4), _equal(_ARCHITECTURES[machine], 1, 0), _give(0x80000000), _load(0)]
    code += [_at_least(_X32, 0, 1), _refuse(_EPERM), _at_least(_CEILING + 1, 0, 1), _refuse(_ENOSYS)]
    code += [_equal(_CLONE3, 0, 1), _refuse(_ENOSYS)]  # the C library then tries clone
    for one in every:
        code += [] if one is None else [_equal(one, 0, 1), _refuse(_EPERM)]
    code += _by_argument(column)
    code += [_equal(_CLONE[machine], 0, 3), _load(16), _has(_CLONE_THREAD, 1 if threads else 0, 0), _refuse(_EPERM)]
    return b"".join([*code, _give(0x7FFF0000)])


def _by_argument(column: int) -> list[bytes]:
    """Calls that are refused for some values of their first or second argument; each block ends the program."""
    code = [_equal(_SOCKETPAIR[column], 0, 5), _load(24), _and(0xF), _equal(_STREAM, 0, 1), _give(0x7FFF0000)]
    code += [_refuse(_EPERM)]
    for numbers, (one, other) in _OWNERS.values():
        code += [_equal(numbers[column], 0, 5), _load(24), _equal(one, 1, 0), _equal(other, 0, 1), _refuse(_EPERM)]
        code += [_give(0x7FFF0000)]
    code += [_equal(_PRCTL[column], 0, 4), _load(16), _equal(_PDEATHSIG, 0, 1), _refuse(_EPERM), _give(0x7FFF0000)]
    return code


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", 0x20, 0, 0, offset)


def _and(bits: int) -> bytes:
    return struct.pack("<HBBI", 0x54, 0, 0, bits)


def _equal(value: int, yes: int, no: int) -> bytes:
    return struct.pack("<HBBI", 0x15, yes, no, value)


def _at_least(value: int, yes: int, no: int) -> bytes:
    return struct.pack("<HBBI", 0x35, yes, no, value)


def _has(bits: int, yes: int, no: int) -> bytes:
    return struct.pack("<HBBI", 0x45, yes, no, bits)


def _refuse(error: int) -> bytes:
    return _give(0x00050000 | error)


def _give(value: int) -> bytes:
    return struct.pack("<HBBI", 0x06, 0, 0, value)
