//! Exchanges: alternating messages of two engines over a stream.

use std::time::Duration;

use chappe_node::membership::exchange::ExchangeMessage;

use super::{event::Event, node::Ix, time::Time, world::World};

/// The timeout of an exchange; the node's own.
const WAIT: Duration = Duration::from_secs(6);
/// Messages in one exchange, two of each side.
const MESSAGES: u8 = 4;

/// A message of an exchange, in flight.
#[derive(Debug)]
pub(super) struct Exchange {
    asker: (Ix, u32),
    answerer: (Ix, u32),
    /// The number of the message in the exchange. The asker sends the even ones.
    turn: u8,
    message: ExchangeMessage,
    deadline: Time,
}

impl Exchange {
    const fn sides(&self) -> ((Ix, u32), (Ix, u32)) {
        if self.turn.is_multiple_of(2) { (self.asker, self.answerer) } else { (self.answerer, self.asker) }
    }

    /// The receiver.
    pub(super) const fn to(&self) -> Ix {
        self.sides().1.0
    }
}

impl World {
    /// Opens an exchange over a link that is up.
    pub(super) fn begin_exchange(&mut self, from: Ix, with: Ix) {
        let now = self.now();
        let id = self.nodes[with.index()].id;
        let Some(engine) = &mut self.nodes[from.index()].engine else { return };
        let message = engine.open_exchange(now, id);
        self.send_first(from, with, message);
    }

    /// Opens an exchange with this message.
    pub(super) fn send_first(&mut self, from: Ix, with: Ix, message: ExchangeMessage) {
        let Some(link) = self.nodes[from.index()].links.find(with, self.time) else { return };
        let asker = (from, self.nodes[from.index()].epoch);
        let exchange = Exchange { asker, answerer: (with, link.epoch), turn: 0, message, deadline: self.time + WAIT };
        self.say(Box::new(exchange));
    }

    fn say(&mut self, mut exchange: Box<Exchange>) {
        let ((from, _), (to, _)) = exchange.sides();
        if let Some(behaviour) = &mut self.nodes[from.index()].behaviour
            && !behaviour.says(&mut exchange.message)
        {
            return;
        }
        // Chappe's own types always encode.
        let len = postcard::to_allocvec(&exchange.message).map_or(0, |bytes| bytes.len());
        let load = &mut self.nodes[from.index()].load;
        load.messages += 1;
        load.bytes += len as u64;
        let at = self.time + self.network.stream(from, to, len);
        self.queue.push(at, Event::Exchange(exchange));
    }

    /// Handles the arrival of a message.
    pub(super) fn handle_exchange(&mut self, exchange: Exchange) {
        let ((from, from_epoch), (to, to_epoch)) = exchange.sides();
        if self.time > exchange.deadline
            || !self.network.connects(from, to)
            || !self.passes(to, to_epoch, from, from_epoch)
        {
            return;
        }
        let Exchange { asker, answerer, turn, message, deadline } = exchange;
        let (now, id) = (self.now(), self.nodes[from.index()].id);
        let node = &mut self.nodes[to.index()];
        let Some(engine) = &mut node.engine else { return };
        let answer = engine.handle_exchange(now, id, message);
        self.act(to);
        if let Some(message) = answer.filter(|_| turn + 1 < MESSAGES) {
            self.say(Box::new(Exchange { asker, answerer, turn: turn + 1, message, deadline }));
        }
    }
}
