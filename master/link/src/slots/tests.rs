use super::*;
use rustix::thread::gettid;
use std::num::NonZeroI32;
use std::sync::mpsc;
use std::thread;

const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::ZERO;

#[test]
fn as_many_slots_as_the_limit_and_no_more() {
    let table = SlotTable::create(3).unwrap();
    let (a, b) = (table.slots(1), table.slots(2));
    let first = a.acquire(AT_ONCE).unwrap();
    let _others = [a.acquire(AT_ONCE).unwrap(), b.acquire(AT_ONCE).unwrap()];
    assert!(b.acquire(AT_ONCE).is_none());
    assert!(a.acquire(Duration::from_millis(30)).is_none());
    assert_eq!((table.used_by(1), table.used_by(2), a.held(), b.held()), (2, 1, 2, 1));
    drop(first);
    assert!(b.acquire(AT_ONCE).is_some());
    assert_eq!(table.limit(), 3);
}

#[test]
fn a_limit_changes_in_place_and_wakes_who_waits() {
    let table = SlotTable::create(1).unwrap();
    let slots = table.slots(1);
    let held = slots.acquire(AT_ONCE).unwrap();
    let waiter = thread::spawn({
        let slots = table.slots(2);
        move || slots.acquire(SOON)
    });
    thread::sleep(Duration::from_millis(20));
    table.set_limit(2);
    let other = waiter.join().unwrap().unwrap();
    table.set_limit(1);
    drop(held);
    let kept = slots.acquire(AT_ONCE).unwrap();
    assert!(table.slots(3).acquire(AT_ONCE).is_none());
    drop((other, kept));
    table.set_limit(0);
    assert_eq!(table.limit(), 1);
}

/// Whether a thread of this process sleeps, as it does nowhere but at the table.
fn sleeps(thread: NonZeroI32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

#[test]
fn one_that_holds_none_goes_before_one_that_holds_some() {
    let table = SlotTable::create(2).unwrap();
    let fed = table.slots(1);
    let hungry = table.slots(2);
    for _ in 0..200 {
        let (kept, given) = (fed.acquire(SOON).unwrap(), fed.acquire(SOON).unwrap());
        let (order, arrivals) = mpsc::channel();
        let wait = |slots: &Slots, name: &'static str| {
            let (slots, order) = (slots.clone(), order.clone());
            let (told, thread_id) = mpsc::channel();
            let waiter = thread::spawn(move || {
                told.send(gettid().as_raw_nonzero()).unwrap();
                let slot = slots.acquire(SOON).unwrap();
                order.send(name).unwrap();
                drop(slot);
            });
            (waiter, thread_id.recv().unwrap())
        };
        let (first, fed_thread) = wait(&fed, "fed");
        let (second, _) = wait(&hungry, "hungry");
        // One that looked before the other was hungry, and then was not given a processor, may still take the slot.
        while !(table.words.is_hungry_besides(0) && sleeps(fed_thread)) {
            thread::yield_now();
        }
        let freed = Instant::now();
        drop(given);
        let mut order = [(); 2].map(|()| arrivals.recv_timeout(SOON).unwrap());
        if freed.elapsed() >= GRACE {
            // A thread that is not given a processor for that long is not waited for.
            order.sort_by_key(|name| *name == "fed");
        }
        assert_eq!(order, ["hungry", "fed"]);
        first.join().unwrap();
        second.join().unwrap();
        drop(kept);
    }
}

#[test]
fn a_stopped_hungry_owner_delays_the_others_by_the_grace_only() {
    let table = SlotTable::create(2).unwrap();
    table.words.hungry()[17].store(99, SeqCst);
    let slots = table.slots(1);
    let _one = slots.acquire(AT_ONCE).unwrap();
    let asked = Instant::now();
    let _two = slots.acquire(SOON).unwrap();
    assert!(asked.elapsed() >= GRACE && asked.elapsed() < SOON / 2);
    table.reclaim(99);
    assert!(!table.words.is_hungry_besides(0));
}

#[test]
fn a_slot_from_before_the_limit_was_lowered_is_taken_back() {
    let table = SlotTable::create(40).unwrap();
    let slots = table.slots(1);
    let held: Vec<SlotGuard> = (0..40).map(|_| slots.try_acquire().unwrap()).collect();
    table.set_limit(2);
    assert_eq!((table.used_by(1), table.sweep(&[1]), table.sweep(&[])), (40, 0, 40));
    drop(held);
}

#[test]
fn reclaim_takes_back_what_one_owner_held_and_sweep_what_nobody_holds() {
    let table = SlotTable::create(10).unwrap();
    let (dead, alive) = (table.slots(5), table.slots(6));
    let lost: Vec<_> = (0..4).map(|_| dead.acquire(AT_ONCE).unwrap()).collect();
    let _kept = alive.acquire(AT_ONCE).unwrap();
    // One that could be used, and one that can only be once the limit is raised.
    for slot in [9, 60_000] {
        table.words.slots()[slot].store(0xDEAD_BEEF, SeqCst);
    }
    assert_eq!(table.sweep(&[5, 6]), 1);
    table.set_limit(SLOTS_MAX);
    assert_eq!(table.sweep(&[5, 6]), 1);
    table.set_limit(10);
    assert_eq!(table.reclaim(5), 4);
    assert_eq!((table.used_by(5), table.used_by(6)), (0, 1));
    // A guard that outlives the reclaim takes nothing from its slot's next owner.
    let next: Vec<_> = (0..9).map(|_| alive.acquire(AT_ONCE).unwrap()).collect();
    drop(lost);
    assert_eq!(table.used_by(6), 10);
    drop(next);
}

#[test]
fn waiting_threads_of_one_process_are_all_served() {
    let table = SlotTable::create(2).unwrap();
    let slots = table.slots(1);
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let slots = slots.clone();
            thread::spawn(move || (0..200).for_each(|_| drop(slots.acquire(SOON).unwrap())))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((slots.held(), table.used_by(1)), (0, 0));
}

#[test]
fn a_table_full_of_junk_neither_panics_nor_stalls() {
    let table = SlotTable::create(4).unwrap();
    let slots = table.slots(1);
    let mut seed = 1u32;
    let mut junk = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed ^ (seed >> 13)
    };
    for _ in 0..50 {
        let held = slots.try_acquire();
        for word in table.words.words() {
            word.store(junk(), SeqCst);
        }
        let _ = (table.limit(), table.used_by(1), slots.try_acquire());
        assert!(slots.acquire(Duration::from_millis(1)).is_none_or(|slot| slot.slot < SLOTS.len()));
        drop(held);
        table.set_limit(4);
        table.sweep(&[1]);
        table.reclaim(1);
        assert!(table.slots(2).acquire(SOON).is_some());
    }
}

#[test]
fn a_waiter_looks_again_though_its_wake_up_was_lost() {
    let table = SlotTable::create(1).unwrap();
    let slots = table.slots(1);
    std::mem::forget(slots.acquire(AT_ONCE).unwrap());
    let waiter = thread::spawn({
        let slots = table.slots(2);
        move || slots.acquire(SOON).is_some()
    });
    thread::sleep(Duration::from_millis(20));
    // Freed without a wake-up, as by one that is killed in between.
    table.words.slots()[0].store(0, SeqCst);
    let freed = Instant::now();
    assert!(waiter.join().unwrap());
    assert!(freed.elapsed() < SOON / 2);
}

#[test]
fn only_a_sealed_table_is_attached() {
    let file = memfd_create("loose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, BYTES as u64).unwrap();
    assert!(SlotTable::attach(file.try_clone().unwrap()).is_err());
    ftruncate(&file, 4096).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    assert!(SlotTable::attach(file).is_err());
    let table = SlotTable::create(1).unwrap();
    assert!(ftruncate(table.as_fd(), 0).is_err());
    assert!(fcntl_add_seals(table.as_fd(), SealFlags::WRITE).is_err());
}
