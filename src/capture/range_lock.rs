//! The lock of a file's page ranges: first come, first served, so that a whole-file holder is never starved.

use parking_lot::{Condvar, Mutex};

/// Locks half-open ranges of page numbers; overlapping ones one after another, in the order of asking.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    queue: Mutex<Queue>,
    freed: Condvar,
}

/// Holders and waiters in the order in which they asked. One holds as soon as no earlier one overlaps it.
#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    asked: Vec<Asked>,
    waiting: u32,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: u64,
    start: u64,
    end: u64,
}

impl Queue {
    fn is_first(&self, ticket: u64, start: u64, end: u64) -> bool {
        self.asked
            .iter()
            .take_while(|other| other.ticket != ticket)
            .all(|other| other.end <= start || end <= other.start)
    }
}

/// A held range; dropping it frees it.
#[derive(Debug)]
pub(super) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    ticket: u64,
}

impl RangeLock {
    /// Waits until no earlier holder or waiter overlaps pages `start..end`, and holds them.
    pub(super) fn lock(&self, start: u64, end: u64) -> RangeGuard<'_> {
        let mut queue = self.queue.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.asked.push(Asked { ticket, start, end });
        while !queue.is_first(ticket, start, end) {
            queue.waiting += 1;
            self.freed.wait(&mut queue);
            queue.waiting -= 1;
        }
        RangeGuard { lock: self, ticket }
    }

    /// Holds every page from `start` on.
    pub(super) fn lock_from(&self, start: u64) -> RangeGuard<'_> {
        self.lock(start, u64::MAX)
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut queue = self.lock.queue.lock();
        queue.asked.retain(|asked| asked.ticket != self.ticket);
        if queue.waiting > 0 {
            self.lock.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn ranges_apart_are_held_together() {
        let lock = RangeLock::default();
        let _first = lock.lock(0, 2);
        let _second = lock.lock(2, 4);
        let _third = lock.lock_from(9);
    }

    #[test]
    fn overlapping_ranges_exclude_each_other() {
        let lock = Arc::new(RangeLock::default());
        let pages: Arc<Vec<AtomicU64>> = Arc::new((0..8).map(|_| AtomicU64::new(0)).collect());
        let threads: Vec<_> = (0..4u64)
            .map(|seed| {
                let (lock, pages) = (Arc::clone(&lock), Arc::clone(&pages));
                thread::spawn(move || {
                    for round in 0..2_000u64 {
                        let start = (round * 7 + seed * 3) % 8;
                        let end = if round % 16 == 0 { u64::MAX } else { (start + 1 + round % 3).min(8) };
                        let _held = lock.lock(start, end);
                        for page in &pages[start as usize..end.min(8) as usize] {
                            assert_eq!(page.fetch_add(1, Ordering::SeqCst), 0);
                        }
                        thread::yield_now();
                        for page in &pages[start as usize..end.min(8) as usize] {
                            page.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(lock.queue.lock().asked.is_empty());
    }

    #[test]
    fn a_waiter_for_everything_is_served_before_those_who_came_later() {
        let lock = Arc::new(RangeLock::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = lock.lock(0, 1);
        let mut threads = Vec::new();
        for (name, start, end, asked) in [("whole", 0, u64::MAX, 2), ("late", 5, 6, 3)] {
            let (lock, order) = (Arc::clone(&lock), Arc::clone(&order));
            let waits = Arc::clone(&lock);
            threads.push(thread::spawn(move || {
                let _held = lock.lock(start, end);
                order.lock().push(name);
            }));
            while waits.queue.lock().asked.len() < asked {
                thread::yield_now();
            }
        }
        assert!(order.lock().is_empty());
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*order.lock(), ["whole", "late"]);
    }
}
