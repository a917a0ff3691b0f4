//! The transfers that are under way, found by what epoll and the timers keep of them.

use super::conn::Conn;

/// Transfers, each named by a token that is never given twice.
#[derive(Default)]
pub(super) struct Conns {
    slots: Vec<(u32, Option<Conn>)>,
    free: Vec<u32>,
}

impl Conns {
    /// No token is smaller. The upper half of a token is the generation of its slot, at least 1.
    pub(super) const FIRST_TOKEN: u64 = 1 << 32;

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, conn: Conn) -> u64 {
        let index = self.free.pop().unwrap_or(self.slots.len() as u32);
        let generation = match self.slots.get_mut(index as usize) {
            Some(slot) => {
                *slot = (slot.0.wrapping_add(1).max(1), Some(conn));
                slot.0
            }
            None => {
                self.slots.push((1, Some(conn)));
                1
            }
        };
        u64::from(generation) << 32 | u64::from(index)
    }

    fn slot(&mut self, token: u64) -> Option<&mut Option<Conn>> {
        let slot = self.slots.get_mut(token as u32 as usize)?;
        (u64::from(slot.0) == token >> 32).then_some(&mut slot.1)
    }

    pub(super) fn get_mut(&mut self, token: u64) -> Option<&mut Conn> {
        self.slot(token)?.as_mut()
    }

    pub(super) fn get(&self, token: u64) -> Option<&Conn> {
        let slot = self.slots.get(token as u32 as usize)?;
        slot.1.as_ref().filter(|_| u64::from(slot.0) == token >> 32)
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Conn> {
        let conn = self.slot(token)?.take()?;
        self.free.push(token as u32);
        Some(conn)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Conn> {
        self.free.clear();
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|slot| slot.1)
    }
}
