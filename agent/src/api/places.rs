//! Places of connections: so many, and silence keeps none from who has something to ask.
//!
//! With a fixed time for silent connections and nothing else, seven of them a second took all 64 places of ten seconds each; the
//! kubelet's question whether the agent is well then waited until it killed a healthy one. So who comes while all are taken gets
//! the place of another that has not yet shown that it may ask: the oldest of whoever has the most of these, which one that
//! floods is itself. Hence no limit a client and no shorter times: a Grafana that opens 30 at once is as welcome as ever.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// All places, the oldest connection first.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<Vec<Arc<Seat>>>,
    freed: Notify,
}

#[derive(Debug)]
struct Seat {
    /// Where the client is.
    source: IpAddr,
    /// It has asked for something that not everybody may ask for.
    is_admitted: AtomicBool,
    lost: Notify,
}

/// A place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    seat: Arc<Seat>,
    places: Arc<Places>,
}

/// For the requests of a connection.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<Seat>);

impl Places {
    /// A place among `most` for a client, another's if need be, and whether it was another's. Waits only while all are those of
    /// clients that may ask.
    pub(super) async fn take(self: &Arc<Self>, most: usize, client: IpAddr) -> (Place, bool) {
        loop {
            if let Some(taken) = self.try_take(most, client) {
                return taken;
            }
            self.freed.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>, most: usize, client: IpAddr) -> Option<(Place, bool)> {
        let mut taken = self.taken();
        let is_full = taken.len() >= most;
        if is_full {
            let at = victim(&taken)?;
            taken.remove(at).lost.notify_one();
        }
        let seat = Arc::new(Seat {
            source: source(client),
            is_admitted: AtomicBool::new(false),
            lost: Notify::new(),
        });
        taken.push(seat.clone());
        let places = self.clone();
        Some((Place { seat, places }, is_full))
    }

    /// Resolves when no place is taken.
    pub(super) async fn empty(&self) {
        while !self.taken().is_empty() {
            self.freed.notified().await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves when the place is another's.
    pub(super) async fn lost(&self) {
        self.seat.lost.notified().await;
    }

    pub(super) fn admission(&self) -> Admission {
        Admission(self.seat.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        self.places.freed.notify_one();
    }
}

impl Admission {
    /// From now on the place is the client's own: who may ask may also be silent, for as long as a connection may.
    pub(super) fn admit(&self) {
        self.0.is_admitted.store(true, Relaxed);
    }
}

/// Whose place another gets: the oldest of the source that has the most of those that are not admitted.
fn victim(taken: &[Arc<Seat>]) -> Option<usize> {
    let strange = || taken.iter().filter(|seat| !seat.is_admitted.load(Relaxed));
    let of = |source: IpAddr| strange().filter(|seat| seat.source == source).count();
    // The last of equals is taken: the oldest, from behind.
    let most = strange().rev().max_by_key(|seat| of(seat.source))?;
    taken.iter().position(|seat| Arc::ptr_eq(seat, most))
}

/// Whom an address stands for: the whole machine on loopback, and of IPv6 the network of 64 bits that a host may choose from.
fn source(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        ip if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (!0 << 64)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, client: &str) -> Option<Place> {
        Some(places.try_take(4, client.parse().unwrap())?.0)
    }

    fn has_lost(place: &Place) -> bool {
        !place
            .places
            .taken()
            .iter()
            .any(|seat| Arc::ptr_eq(seat, &place.seat))
    }

    #[test]
    fn who_has_the_most_makes_room_and_the_oldest_first() {
        let places: Arc<Places> = Arc::default();
        let honest = take(&places, "10.0.0.1").unwrap();
        // One host, whatever addresses of its network it takes.
        let flood: Vec<Place> = (1..9)
            .map(|i| take(&places, &format!("2001:db8::{i}")).unwrap())
            .collect();
        assert!(!has_lost(&honest), "the oldest of all had to go");
        assert!(flood[..5].iter().all(has_lost) && !flood[5..].iter().any(has_lost));
        let many: Vec<Place> = (2..9)
            .map(|i| take(&places, &format!("10.0.0.{i}")).unwrap())
            .collect();
        // All have one: the oldest goes.
        assert!(has_lost(&honest) && flood.iter().all(has_lost));
        assert!(!many[3..].iter().any(has_lost));
        drop(many);
        assert!(places.taken().is_empty());
    }

    #[test]
    fn the_machine_is_one_client() {
        for (client, want) in [
            ("127.0.0.1", "::1"),
            ("127.9.9.9", "::1"),
            ("::ffff:127.0.0.2", "::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(source(client.parse().unwrap()), want.parse::<IpAddr>().unwrap());
        }
    }

    #[tokio::test]
    async fn who_may_ask_keeps_the_place_and_others_wait() {
        let places: Arc<Places> = Arc::default();
        let mut held: Vec<Place> = (0..4).map(|_| take(&places, "10.0.0.1").unwrap()).collect();
        held.iter().for_each(|place| place.admission().admit());
        assert!(take(&places, "10.0.0.2").is_none());
        let waits = tokio::spawn({
            let places = places.clone();
            async move { places.take(4, IpAddr::from([10, 0, 0, 2])).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        held.pop();
        let (_place, was_anothers) = waits.await.unwrap();
        assert!(!was_anothers);
    }
}
