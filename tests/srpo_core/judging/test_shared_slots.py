"""Places shared by event loops in different threads: never more taken than there are, none lost, the longest wait first."""

import asyncio
import threading

from srpo_core.judging.shared_slots import SharedSlots


def test_loops_in_different_threads_together_never_take_more_than_there_are() -> None:
    slots, lock = SharedSlots(3), threading.Lock()
    taken = most = done = 0

    async def use() -> None:
        nonlocal taken, most, done
        await slots.take()
        with lock:
            taken += 1
            most = max(most, taken)
        await asyncio.sleep(0.001)
        with lock:
            taken -= 1
            done += 1
        slots.give_back()

    async def many() -> None:
        await asyncio.gather(*(use() for _ in range(50)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (most, done, taken) == (3, 200, 0)


def test_a_place_goes_to_whoever_waited_longest() -> None:
    async def run() -> list[int]:
        slots, order = SharedSlots(1), []

        async def use(number: int) -> None:
            await slots.take()
            order.append(number)
            await asyncio.sleep(0)
            slots.give_back()

        await asyncio.gather(*(use(number) for number in range(5)))
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_who_is_cancelled_while_waiting_leaves_no_place_taken() -> None:
    async def run() -> bool:
        slots = SharedSlots(1)
        await slots.take()
        waiting = [asyncio.create_task(slots.take()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        slots.give_back()  # may be on its way to one that is cancelled at the same moment
        waiting[1].cancel()
        await asyncio.wait_for(waiting[2], 5)
        slots.give_back()
        await asyncio.wait_for(slots.take(), 5)
        return True

    assert asyncio.run(run())


def test_a_loop_that_ended_while_it_waited_is_passed_over() -> None:
    slots = SharedSlots(1)
    asyncio.run(slots.take())

    async def give_up() -> None:
        try:
            await asyncio.wait_for(slots.take(), 0.05)
        except TimeoutError:
            return

    asyncio.run(give_up())
    slots.give_back()
    asyncio.run(asyncio.wait_for(slots.take(), 5))
