//! How much load and how many usable servers a pool has altogether.
//!
//! To count them anew for each pick would cost a step per server. A census is taken every so many picks that it
//! costs [`LOOKS_PER_PICK`] each on average, and what was picked since is added: in between the load is off by
//! less than a sixteenth of a connection per server and shard.

use fourfold_base::Millis;

use crate::options::Server;

const LOOKS_PER_PICK: usize = 16;
/// A pool with little to do notices by now that servers have gone.
const CENSUS_MS_MAX: Millis = 100;

#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    taken_at: Millis,
    picks_left: usize,
    /// Of the usable servers.
    load: u64,
    weight: u64,
    /// Of these, in the zone that was asked for.
    zone_weight: u64,
}

impl Census {
    pub fn refresh(
        &mut self,
        now: Millis,
        servers: &[Server],
        zone: Option<u16>,
        load: &impl Fn(usize) -> Option<u32>,
    ) {
        if self.picks_left > 0 && now < self.taken_at + CENSUS_MS_MAX {
            self.picks_left -= 1;
            self.load += 1;
            return;
        }
        *self = Census { taken_at: now, picks_left: servers.len() / LOOKS_PER_PICK, ..Census::default() };
        for (place, server) in servers.iter().enumerate().filter(|(_, server)| server.weight > 0) {
            let Some(load) = load(place) else { continue };
            self.load += u64::from(load);
            self.weight += u64::from(server.weight);
            if zone == Some(server.zone) {
                self.zone_weight += u64::from(server.weight);
            }
        }
    }

    /// Whether one more would still be within `percent` of the server's share (Mirrokni, Thorup and Zadimoghaddam
    /// 2018): load + 1 <= ceil(percent/100 * (all load + 1) * weight / all weight).
    pub fn has_room(&self, percent: u32, load: u32, weight: u32) -> bool {
        let fair = u128::from(self.load + 1) * u128::from(weight);
        u128::from(load) * u128::from(self.weight) * 100 < fair * u128::from(percent)
    }

    /// How many of 1000 picks the zone can keep when each of `zones` has as much to do: all, if its part of the
    /// usable weight is no less than its part of the work; else as many as load it no more than the others.
    pub fn zone_keeps(&self, zones: u32) -> u32 {
        let keeps = u128::from(self.zone_weight) * u128::from(zones) * 1000 / u128::from(self.weight.max(1));
        keeps.min(1000) as u32
    }
}
