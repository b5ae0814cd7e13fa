"""When a disk counts as stalled."""

from kvnode.server.disk_watch import DiskWatch


def looked(watch: DiskWatch, job: int, times: int, elapsed_s: float = 0.1) -> list[bool]:
    return [watch.look([job, 0], elapsed_s) for _ in range(times)]


def test_a_write_that_does_not_come_back_within_the_limit_is_a_stall_told_once() -> None:
    watch = DiskWatch(3.0, 0.2)
    assert not any(looked(watch, 7, 30))
    assert looked(watch, 7, 20).count(True) == 1
    assert watch.is_stalled
    assert watch.waited_s > 4.5


def test_a_slow_disk_whose_writes_all_come_back_in_time_is_none() -> None:
    watch = DiskWatch(3.0, 0.2)
    assert not any(changed for job in range(1, 20) for changed in looked(watch, job, 25))


def test_it_is_over_as_soon_as_the_write_comes_back() -> None:
    watch = DiskWatch(3.0, 0.2)
    looked(watch, 7, 40)
    assert watch.look([0, 0], 0.1)
    assert not watch.is_stalled


def test_either_thread_may_stall() -> None:
    watch = DiskWatch(3.0, 0.2)
    for job in range(1, 40):
        watch.look([job, 5], 0.1)
    assert watch.is_stalled


def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    watch = DiskWatch(3.0, 0.2)
    assert not any(looked(watch, 7, 5))
    assert not watch.look([7, 0], 600.0)
    assert watch.waited_s < 1.0


def test_without_a_limit_nothing_is_a_stall() -> None:
    watch = DiskWatch(0.0, 0.2)
    assert not any(looked(watch, 7, 1000))
