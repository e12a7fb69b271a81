//! Many connections at once.

use std::sync::Mutex;

/// Does `work` for every item, `threads` of them at a time. The first failure ends the test, with its own message.
#[track_caller]
pub fn each<T: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) + Sync) {
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
    let run = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    // A scope joins its threads and passes a panic on.
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(run);
        }
    });
}
