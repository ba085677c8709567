//! The load generator: thousands of clients on one thread, around one epoll and one heap of alarms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::client::{Client, Exchange, Plan, Then, is_refusal};
use crate::wire::Wire;

/// What became of a group of clients.
#[derive(Default)]
pub(crate) struct Tally {
    /// Clients that have begun.
    pub(crate) attempted: usize,
    /// For each success, how long the client waited for the proxy in all.
    pub(crate) successes: Vec<Duration>,
    /// The last words of the proxy to those that failed, and how often they fell.
    pub(crate) failures: BTreeMap<String, usize>,
    /// How long each repeated question went unanswered.
    pub(crate) rounds: Vec<Duration>,
    /// Connections of a crowd that were closed by the other side.
    pub(crate) sent_away: usize,
    /// Successes whose TLS session was an earlier one taken up again.
    pub(crate) resumed: usize,
    /// When the first began.
    pub(crate) first: Option<Instant>,
    /// When the first succeeded.
    pub(crate) first_success: Option<Instant>,
    /// When the last succeeded.
    pub(crate) last: Option<Instant>,
    /// Clients that will begin when another one of the group has ended.
    queued: usize,
}

impl Tally {
    /// Successes a second, between the first and the last of them.
    pub(crate) fn throughput(&self) -> f64 {
        let Some((first, last)) = self.first_success.zip(self.last) else {
            return 0.0;
        };
        let further = self.successes.len().saturating_sub(1);
        further as f64 / (last - first).as_secs_f64().max(0.001)
    }

    /// That somebody succeeded.
    ///
    /// # Errors
    /// That nobody did, and why.
    pub(crate) fn insist_on_a_success(&self) -> Result<(), String> {
        if self.successes.is_empty() {
            return Err(format!("no login succeeded: {:?}", self.failures));
        }
        Ok(())
    }

    /// How many have failed.
    pub(crate) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// Whether everybody who began has ended well or badly.
    pub(crate) fn is_complete(&self) -> bool {
        self.queued == 0 && self.attempted == self.successes.len() + self.failed()
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Begin,
    Speak,
    Chat,
    GiveUp,
}

/// All clients of a run.
pub(crate) struct Load {
    epoll: Epoll,
    clients: Vec<Client>,
    alarms: BinaryHeap<Reverse<(Instant, usize, u32, Alarm)>>,
    tallies: Vec<Tally>,
    planned: Vec<usize>,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("the system has epoll"),
            clients: Vec::new(),
            alarms: BinaryHeap::new(),
            tallies: Vec::new(),
            planned: Vec::new(),
        }
    }

    /// A new group, without clients as yet.
    pub(crate) fn group(&mut self) -> usize {
        self.tallies.push(Tally::default());
        self.planned.push(0);
        self.tallies.len() - 1
    }

    /// What became of a group so far.
    pub(crate) fn tally(&self, group: usize) -> &Tally {
        &self.tallies[group]
    }

    /// A client that begins at `when`.
    pub(crate) fn add(&mut self, group: usize, plan: &Rc<Plan>, from: Ipv4Addr, when: Instant) {
        let id = self.clients.len();
        self.clients.push(Client::new(plan, from, group));
        self.planned[group] += 1;
        self.set_alarm(id, when, Alarm::Begin);
    }

    /// Further sessions of the group, each begun by the client whose session has just ended.
    pub(crate) fn queue(&mut self, group: usize, sessions: usize) {
        self.tallies[group].queued += sessions;
        self.planned[group] += sessions;
    }

    /// Whether all clients of the group have begun and ended.
    pub(crate) fn is_complete(&self, group: usize) -> bool {
        let tally = &self.tallies[group];
        tally.attempted == self.planned[group] && tally.is_complete()
    }

    /// How many clients of the group have a connection.
    pub(crate) fn connected(&self, group: usize) -> usize {
        let connected = |client: &&Client| client.group == group && client.wire.is_some();
        self.clients.iter().filter(connected).count()
    }

    /// Those of the group who are still there go on with what another plan says of the end of the
    /// script, which is the same; from now on they are another group, which this gives.
    pub(crate) fn go_on(&mut self, group: usize, plan: Plan) -> usize {
        let plan = Rc::new(plan);
        let new = self.group();
        for id in 0..self.clients.len() {
            let client = &mut self.clients[id];
            if client.group == group && client.wire.is_some() {
                client.group = new;
                client.plan = Rc::clone(&plan);
                client.counted = false;
                self.planned[new] += 1;
                self.tallies[new].attempted += 1;
                self.speak(id);
            }
        }
        new
    }

    /// Asks everybody of the group who is still there one question, whose answers count as rounds.
    /// Says how many were asked.
    pub(crate) fn ask_all(&mut self, group: usize, exchange: Exchange) -> usize {
        let exchange = Rc::new(exchange);
        let mut asked = 0;
        for id in 0..self.clients.len() {
            let client = &mut self.clients[id];
            if client.group == group && client.wire.is_some() {
                client.question = Some(Rc::clone(&exchange));
                asked += 1;
                self.speak(id);
            }
        }
        asked
    }

    /// Goes on for so long.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Goes on until `done`, or for `limit`; says whether it was done.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut events = vec![EpollEvent::empty(); 1024];
        while Instant::now() < end {
            if done(self) {
                return true;
            }
            self.ring_alarms();
            let count = match self.epoll.wait(&mut events, self.pause(end)) {
                Err(Errno::EINTR) => 0,
                other => other.expect("epoll works while it is open"),
            };
            for event in &events[..count] {
                let id = usize::try_from(event.data()).expect("it was an index");
                self.progress(id);
            }
        }
        done(self)
    }

    /// Until the next alarm, rounded up to what epoll can measure.
    fn pause(&self, end: Instant) -> EpollTimeout {
        let next = self
            .alarms
            .peek()
            .map_or(end, |Reverse((when, ..))| *when.min(&end));
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return EpollTimeout::ZERO;
        }
        let pause = (left + Duration::from_micros(999)).min(Duration::from_millis(100));
        EpollTimeout::try_from(pause).expect("a tenth of a second fits")
    }

    fn set_alarm(&mut self, id: usize, when: Instant, alarm: Alarm) {
        let generation = self.clients[id].generation;
        self.alarms.push(Reverse((when, id, generation, alarm)));
    }

    fn ring_alarms(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((when, ..))) = self.alarms.peek()
            && *when <= now
        {
            let Some(Reverse((_, id, generation, alarm))) = self.alarms.pop() else {
                return;
            };
            if self.clients[id].generation != generation {
                continue;
            }
            match alarm {
                Alarm::Begin => self.begin(id),
                Alarm::Speak => self.speak(id),
                Alarm::Chat => self.chat(id),
                Alarm::GiveUp => self.give_up(id),
            }
        }
    }

    fn begin(&mut self, id: usize) {
        let now = Instant::now();
        let client = &mut self.clients[id];
        client.counted = false;
        client.asked = Some(now);
        let (group, patience) = (client.group, client.plan.patience);
        let is_honest = client.plan.back.is_none();
        let opened = self.open(id);
        let tally = &mut self.tallies[group];
        tally.first.get_or_insert(now);
        tally.attempted += 1;
        match opened {
            Err(error) => self.fail(id, &error.to_string()),
            Ok(()) if is_honest => self.set_alarm(id, now + patience, Alarm::GiveUp),
            Ok(()) => {}
        }
    }

    fn open(&mut self, id: usize) -> io::Result<()> {
        let client = &mut self.clients[id];
        let plan = &client.plan;
        let wire = Wire::open(client.from, plan.target, client.tls.as_ref())?;
        // Edges in both directions: one registration serves the whole life of a connection.
        let interest = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        self.epoll
            .add(wire.socket(), EpollEvent::new(interest, id as u64))?;
        client.wire = Some(wire);
        Ok(())
    }

    fn give_up(&mut self, id: usize) {
        if !self.clients[id].counted {
            let patience = self.clients[id].plan.patience;
            self.fail(id, &format!("no answer in {patience:?}"));
        }
    }

    fn speak(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let Some(exchange) = client.exchange() else {
            return;
        };
        let say = exchange.say;
        client.output.extend_from_slice(say.as_bytes());
        client.asked = Some(Instant::now());
        self.progress(id);
    }

    fn chat(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let Then::Chat(line, every) = client.plan.then else {
            return;
        };
        // A line that the other side does not take is not said again behind it.
        if client.output.is_empty() {
            client.output.extend_from_slice(line.as_bytes());
        }
        self.set_alarm(id, Instant::now() + every, Alarm::Chat);
        self.progress(id);
    }

    /// Writes and reads what can be written and read, and acts on it.
    fn progress(&mut self, id: usize) {
        let result = self.exchange_bytes(id);
        // What was said before the end counts, even before a reset.
        while let Some(line) = self.clients[id].next_line() {
            self.hear(id, &line);
        }
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.hear_end(id, "closed"),
            Err(error) => self.hear_end(id, &error.to_string()),
        }
    }

    fn exchange_bytes(&mut self, id: usize) -> io::Result<()> {
        let client = &mut self.clients[id];
        let Some(wire) = &mut client.wire else {
            return Ok(());
        };
        while !client.output.is_empty() {
            match wire.write(&client.output) {
                Ok(count) => drop(client.output.drain(..count)),
                Err(error) if is_temporary(&error) => break,
                // The answer may be there all the same.
                Err(_) => client.output.clear(),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match wire.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => client.input.extend_from_slice(&buffer[..count]),
                Err(error) if is_temporary(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn hear(&mut self, id: usize, line: &str) {
        let client = &self.clients[id];
        let awaited = client.exchange().map(|exchange| exchange.hear);
        if awaited.is_some_and(|hear| !hear.is_empty() && line.starts_with(hear)) {
            if client.asked.is_some() {
                self.answered(id);
            }
        } else if client.is_leaving() {
            // A goodbye that was asked for.
        } else if is_refusal(line) && client.plan.back.is_none() {
            self.fail(id, line);
        }
    }

    fn hear_end(&mut self, id: usize, reason: &str) {
        let client = &self.clients[id];
        if client.wire.is_none() {
            return;
        }
        let awaits_end = client
            .exchange()
            .is_some_and(|exchange| exchange.hear.is_empty());
        if awaits_end && client.asked.is_some() {
            return self.answered(id);
        }
        let Some(back) = client.plan.back else {
            return self.fail(id, reason);
        };
        self.tallies[client.group].sent_away += 1;
        self.clients[id].forget_connection();
        self.set_alarm(id, Instant::now() + back, Alarm::Begin);
    }

    fn answered(&mut self, id: usize) {
        let now = Instant::now();
        let client = &mut self.clients[id];
        let wait = client
            .asked
            .take()
            .map_or(Duration::ZERO, |asked| now - asked);
        client.waited += wait;
        let tally = &mut self.tallies[client.group];
        if client.question.take().is_some() {
            tally.rounds.push(wait);
            return;
        }
        if client.is_repeating() {
            tally.rounds.push(wait);
        }
        client.at += 1;
        let rtt = client.plan.rtt;
        match (client.exchange().is_some(), rtt.is_zero()) {
            (true, true) => self.speak(id),
            (true, false) => self.set_alarm(id, now + rtt, Alarm::Speak),
            (false, _) => self.at_the_end_of_the_script(id),
        }
    }

    fn at_the_end_of_the_script(&mut self, id: usize) {
        let now = Instant::now();
        let client = &mut self.clients[id];
        let tally = &mut self.tallies[client.group];
        client.counted = true;
        match client.plan.then {
            Then::Chat(..) => return self.chat(id),
            Then::Stay | Then::Leave | Then::Repeat(..) => {}
        }
        tally.successes.push(client.waited);
        tally.resumed += usize::from(client.wire.as_ref().is_some_and(Wire::is_resumed));
        tally.first_success.get_or_insert(now);
        tally.last = Some(now);
        match client.plan.then {
            Then::Stay => self.begin_queued(id, now),
            _ => {
                client.forget_connection();
                self.begin_queued(id, now);
            }
        }
    }

    fn fail(&mut self, id: usize, reason: &str) {
        let client = &mut self.clients[id];
        let tally = &mut self.tallies[client.group];
        if client.counted {
            // It had succeeded, and was closed afterwards.
            tally.sent_away += 1;
        } else {
            let reason: String = reason.chars().take(60).collect();
            *tally.failures.entry(reason).or_default() += 1;
        }
        let was_counted = std::mem::replace(&mut client.counted, true);
        client.forget_connection();
        if !was_counted {
            self.begin_queued(id, Instant::now());
        }
    }

    /// The group's next session, if one is queued: on this client, or on a new one beside it if this
    /// one stays.
    fn begin_queued(&mut self, id: usize, now: Instant) {
        let client = &self.clients[id];
        let (group, from) = (client.group, client.from);
        let Some(left) = self.tallies[group].queued.checked_sub(1) else {
            return;
        };
        self.tallies[group].queued = left;
        if client.wire.is_none() {
            return self.set_alarm(id, now, Alarm::Begin);
        }
        let plan = Rc::clone(&client.plan);
        self.clients
            .push(Client::new(&plan, neighbour(from), group));
        self.set_alarm(self.clients.len() - 1, now, Alarm::Begin);
    }
}

fn is_temporary(error: &io::Error) -> bool {
    // A socket that is still connecting is not connected yet, which is no failure.
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted
    )
}

/// Address number `index` of 127.1.0.0/16.
pub(crate) fn address(index: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(index % 65_000)
        .expect("it was cut")
        .to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// The next address, within the same range.
fn neighbour(address: Ipv4Addr) -> Ipv4Addr {
    let [first, second, high, low] = address.octets();
    let [high, low] = u16::from_be_bytes([high, low])
        .wrapping_add(1)
        .to_be_bytes();
    Ipv4Addr::new(first, second, high, low)
}
