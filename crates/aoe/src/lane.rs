//! Writes of one target that wait for a thread. They are done in the order in which they came, so that
//! one that was sent twice is never done after a later one to the same place.

use crate::machine::Answer;
use crate::port::Port;
use std::mem;
use std::sync::Arc;

/// Most bytes of writes next to each other that become one.
pub(crate) const RUN: usize = 128 << 10;

/// What is to be done.
pub(crate) enum Work {
    /// Writes next to each other, with the length of each.
    Write {
        offset: u64,
        data: Vec<u8>,
        pieces: Vec<(Answer, usize)>,
    },
    /// A flush of all before.
    Flush(Answer),
}

/// With where the answer goes.
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) port: Arc<Port>,
}

/// What waits.
#[derive(Default)]
pub(crate) struct Lane {
    waiting: Vec<Job>,
    /// Commands in `waiting`.
    commands: usize,
    /// A thread has it, or will have.
    scheduled: bool,
}

impl Lane {
    /// Whether nothing waits and nothing is being done.
    pub(crate) fn is_idle(&self) -> bool {
        !self.scheduled
    }

    /// How many commands wait.
    pub(crate) fn len(&self) -> usize {
        self.commands
    }

    /// Adds a write. Returns whether a thread has to be told.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        answer: Answer,
        port: &Arc<Port>,
    ) -> bool {
        self.commands += 1;
        if let Some(Job {
            work:
                Work::Write {
                    offset: first,
                    data: all,
                    pieces,
                },
            port: last,
        }) = self.waiting.last_mut()
            && *first + all.len() as u64 == offset
            && all.len() + data.len() <= RUN
            && Arc::ptr_eq(last, port)
        {
            all.extend_from_slice(data);
            pieces.push((answer, data.len()));
        } else {
            self.waiting.push(Job {
                work: Work::Write {
                    offset,
                    data: data.to_vec(),
                    pieces: vec![(answer, data.len())],
                },
                port: port.clone(),
            });
        }
        !mem::replace(&mut self.scheduled, true)
    }

    /// Adds a flush. Returns whether a thread has to be told.
    pub(crate) fn flush(&mut self, answer: Answer, port: &Arc<Port>) -> bool {
        self.commands += 1;
        self.waiting.push(Job {
            work: Work::Flush(answer),
            port: port.clone(),
        });
        !mem::replace(&mut self.scheduled, true)
    }

    /// Takes all that waits; what comes from now on waits for the next call. Where nothing waits, the
    /// lane is idle again.
    pub(crate) fn take(&mut self) -> Vec<Job> {
        self.commands = 0;
        self.scheduled = !self.waiting.is_empty();
        mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::an_answer;

    #[test]
    fn writes_next_to_each_other_become_one_and_stay_in_order() {
        let port = Arc::new(Port::nowhere());
        let mut lane = Lane::default();
        assert!(lane.write(1024, &[1; 512], an_answer(), &port));
        assert!(!lane.write(1536, &[2; 512], an_answer(), &port));
        assert!(!lane.write(1024, &[3; 512], an_answer(), &port));
        assert!(!lane.flush(an_answer(), &port));
        assert!(!lane.write(1536, &[4; 512], an_answer(), &port));
        assert_eq!((lane.len(), lane.is_idle()), (5, false));
        let jobs = lane.take();
        let shown: Vec<_> = jobs
            .iter()
            .map(|job| match &job.work {
                Work::Write {
                    offset,
                    data,
                    pieces,
                } => (*offset, data.len(), pieces.len()),
                Work::Flush(_) => (0, 0, 0),
            })
            .collect();
        assert_eq!(
            shown,
            [(1024, 1024, 2), (1024, 512, 1), (0, 0, 0), (1536, 512, 1)]
        );
        assert!(!lane.is_idle(), "they are being done");
        assert!(lane.take().is_empty() && lane.is_idle());
    }

    #[test]
    fn a_run_has_a_bound() {
        let port = Arc::new(Port::nowhere());
        let mut lane = Lane::default();
        for n in 0..=RUN / 512 {
            lane.write(n as u64 * 512, &[0; 512], an_answer(), &port);
        }
        assert_eq!(lane.take().len(), 2);
    }
}
