//! Stores that stall, die, lose everything or talk nonsense.

use super::*;

/// Logins over both nodes, one after another in some threads, until it is told to stop.
struct Load {
    ends: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Vec<(String, Duration)>>>,
}

impl Load {
    fn begin(targets: [SocketAddr; 2]) -> Load {
        let ends = Arc::new(AtomicBool::new(false));
        let threads = (0..4_u8)
            .map(|number| {
                let ends = Arc::clone(&ends);
                thread::spawn(move || {
                    let mut done = Vec::new();
                    for at in 0.. {
                        if ends.load(Ordering::Relaxed) {
                            break;
                        }
                        let login = format!("user{number}");
                        let target = targets[at % 2];
                        let (mut client, line, took) =
                            try_login(20 + number, target, &login, "secret");
                        done.push((line, took));
                        client.send("b LOGOUT");
                        client.lines_until("b OK");
                        thread::sleep(Duration::from_millis(5));
                    }
                    done
                })
            })
            .collect();
        Load { ends, threads }
    }

    /// How many there were, and the slowest. Each has succeeded.
    fn end(self) -> (usize, Duration) {
        self.ends.store(true, Ordering::Relaxed);
        let done = self.threads.into_iter();
        let done: Vec<_> = done
            .flat_map(|one| one.join().expect("every login is answered"))
            .collect();
        for (line, _) in &done {
            assert!(line.starts_with("a OK"), "{line}");
        }
        let slowest = done.iter().map(|(_, took)| *took).max();
        (done.len(), slowest.unwrap_or_default())
    }
}

#[test]
fn a_store_that_stalls_dies_is_emptied_or_comes_back_fails_and_delays_no_login() {
    let redis = Redis::start();
    let of_server = "max_sessions_per_user = 50\nauth_failures_per_user = 5";
    let nodes = Nodes::sharing(&redis, of_server);
    let targets = [nodes.address(0), nodes.address(1)];
    let during = |what: &mut dyn FnMut()| {
        let load = Load::begin(targets);
        what();
        load.end()
    };
    let (_, usual) = during(&mut || thread::sleep(Duration::from_secs(2)));
    let lost = |times: usize| {
        for node in &nodes.nodes {
            until_true("it is told", PATIENCE, || {
                node.count("counts alone until it is back") >= times
            });
        }
    };
    let back = |times: usize| {
        for node in &nodes.nodes {
            until_true("it is back", PATIENCE, || node.count(": is back") >= times);
        }
    };
    let (logins, slowest) = during(&mut || {
        redis.signal(Signal::SIGSTOP);
        lost(1);
        thread::sleep(Duration::from_secs(3));
        redis.signal(Signal::SIGCONT);
        back(1);
    });
    let most = Duration::from_secs(1) + usual;
    assert!(
        logins > 20 && slowest < most,
        "stalled: {logins}, {slowest:?}, {usual:?}"
    );

    let (logins, slowest) = during(&mut || {
        for _ in 0..5 {
            redis.ask(&["FLUSHALL"]);
            redis.ask(&["SCRIPT", "FLUSH"]);
            thread::sleep(Duration::from_millis(300));
        }
    });
    assert!(
        logins > 20 && slowest < most,
        "emptied: {logins}, {slowest:?}, {usual:?}"
    );

    let seen = |node: &Postern| node.count("counts alone until it is back");
    let before = nodes.nodes.iter().map(seen).max().unwrap_or_default();
    let mut redis = Some(redis);
    let (logins, slowest) = during(&mut || {
        let port = redis.take().map(Redis::kill).expect("it runs");
        lost(before + 1);
        thread::sleep(Duration::from_secs(2));
        redis = Some(Redis::start_with(port, None));
        back(before + 1);
    });
    assert!(
        logins > 20 && slowest < most,
        "killed: {logins}, {slowest:?}, {usual:?}"
    );
    assert!(nodes.auth.requests().len() > 60);
    nodes.stop();
}

/// What comes back from a store is as little to be trusted as what comes from anybody.
#[test]
fn a_store_that_says_nonsense_harms_nobody() {
    for nonsense in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"*1000000000\r\n",
        b"$9223372036854775807\r\n",
        b"*-7\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"+PONG\r\n+PONG\r\n+PONG\r\n+PONG\r\n",
        b":99999999999999999999999\r\n",
        b"",
    ] {
        let peer = Peer::start(move |talk| {
            loop {
                let line = talk.line()?;
                match line.as_str() {
                    "PING" => talk.send(b"+PONG\r\n")?,
                    line if line.starts_with(['*', '$']) => {}
                    _ => talk.send(nonsense)?,
                }
            }
        });
        let url = format!("limits_store = redis://{}", peer.address());
        let nodes = Nodes::start(&url, "");
        nodes.nodes[0].wait_for_log("this node counts alone until it is there");
        nodes.log_in(0, 7);
        well(operate(&nodes.nodes[0], &["ban", "127.0.0.7"]));
        assert!(!nodes.lets_in(0, 7));
        for log in nodes.stop() {
            assert!(
                !log.contains("fault in the program") && !log.contains("panicked"),
                "{log}"
            );
        }
    }
}
