import pytest

from longva.planning.devices import free_host_memory

MEMINFO = "MemTotal: 32000 kB\nMemFree: 100 kB\nMemAvailable: 9000 kB\n"


def host(root, own: str, groups: dict[str, str]):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in groups.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return free_host_memory(root)


def test_without_a_limit_it_is_what_the_machine_has_available(tmp_path):
    assert host(tmp_path, "0::/\n", {}) == 9000 * 1024


@pytest.mark.parametrize("place", ["", "job/step/", "job/"])
def test_the_limit_of_a_container_or_of_a_group_above_counts(place, tmp_path):
    files = {
        f"{place}memory.max": "5000000\n",
        f"{place}memory.current": "4000000\n",
        f"{place}memory.stat": "anon 3000000\nfile 1000000\ninactive_file 600000\n",
    }
    assert host(tmp_path, "0::/job/step\n", files) == 5_000_000 - 4_000_000 + 600_000


def test_a_group_that_says_max_has_no_limit(tmp_path):
    assert host(tmp_path, "0::/\n", {"memory.max": "max\n"}) == 9000 * 1024


def test_version_1_of_control_groups_is_read_too(tmp_path):
    files = {
        "memory/docker/memory.limit_in_bytes": "5000000\n",
        "memory/docker/memory.usage_in_bytes": "4000000\n",
        "memory/docker/memory.stat": "inactive_file 1\ntotal_inactive_file 600000\n",
    }
    own = "9:name=systemd:/\n4:memory:/docker\n1:cpu,cpuacct:/docker\n0::/\n"
    assert host(tmp_path, own, files) == 1_600_000


def test_where_nothing_tells_it_is_unknown(tmp_path):
    assert free_host_memory(tmp_path) is None
