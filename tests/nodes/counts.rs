//! Failed logins and sessions of users, counted over all nodes.

use super::*;

#[test]
fn a_guesser_spread_over_both_nodes_is_slowed_as_on_one() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, BALANCED);
    let haproxy = balancer(&nodes);
    // Five are free; behind them it takes 1, 2 and 4 seconds.
    let took = guess(haproxy.address, 7);
    let late: Vec<bool> = took
        .iter()
        .map(|took| *took >= Duration::from_millis(900))
        .collect();
    assert_eq!(
        late,
        [false, false, false, false, false, true, true],
        "{took:?}"
    );
    assert!(took[6] >= Duration::from_millis(1900), "{took:?}");
    // Both had their part in it.
    for node in &nodes.nodes {
        node.wait_for_lines("client login failed", 3);
    }
    // A key of each, without the name, and with an end.
    assert_eq!(
        redis.keys("postern:failures:"),
        ["postern:failures:address:127.0.0.42"]
    );
    let left: u64 = redis.ask(&["TTL", "postern:failures:address:127.0.0.42"])[0]
        .parse()
        .expect("it has an end");
    assert!((300..=7 * 300).contains(&left), "{left}");
    nodes.stop();

    // Each for itself they let twice as many pass.
    let nodes = Nodes::start("", BALANCED);
    let haproxy = balancer(&nodes);
    let took = guess(haproxy.address, 7);
    assert!(
        took.iter().all(|took| *took < Duration::from_millis(900)),
        "{took:?}"
    );
    nodes.stop();
}

#[test]
fn a_users_sessions_are_counted_over_both_nodes() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, &format!("{BALANCED}max_sessions_per_user = 4"));
    let haproxy = balancer(&nodes);
    let front = haproxy.address;
    // All at once, from everywhere.
    let tries: Vec<_> = (0..16_u8)
        .map(|at| thread::spawn(move || try_login(10 + at, front, "alice", "secret")))
        .collect();
    let tries = tries
        .into_iter()
        .map(|one| one.join().expect("it is answered"));
    let (mut inside, refused): (Vec<_>, Vec<_>) =
        tries.partition(|(_, line, _)| line.starts_with("a OK"));
    assert!(
        refused
            .iter()
            .all(|(_, line, _)| line.starts_with("a NO [LIMIT]"))
    );
    assert!(
        (4..=5).contains(&inside.len()),
        "{} are inside",
        inside.len()
    );
    while inside.len() > 4 {
        drop(inside.pop());
    }
    for node in 0..2 {
        let (_, line, _) = try_login(9, nodes.address(node), "alice", "secret");
        assert!(line.starts_with("a NO [LIMIT]"), "{line}");
        let (_, line, _) = try_login(9, nodes.address(node), "bob", "secret");
        assert!(line.starts_with("a OK"), "{line}");
    }
    assert!(redis.ask(&["KEYS", "*alice*"]).concat().is_empty());
    // Whoever leaves makes room on either node.
    drop(inside.pop());
    for node in [0, 1] {
        until_true("there is room", PATIENCE, || {
            let (_, line, _) = try_login(9, nodes.address(node), "alice", "secret");
            line.starts_with("a OK")
        });
    }
    drop(inside);
    // A process that ends in order leaves nothing behind.
    nodes.stop();
    until_true("nobody is counted", PATIENCE, || {
        redis.keys("postern:sessions:").is_empty()
    });
}

#[test]
fn the_sessions_of_a_killed_node_are_counted_for_a_minute_at_most() {
    let redis = Redis::start();
    let mut nodes = Nodes::sharing(&redis, "max_sessions_per_user = 1");
    let (_client, line, _) = try_login(7, nodes.address(0), "alice", "secret");
    assert!(line.starts_with("a OK"), "{line}");
    let keys = redis.keys("postern:sessions:");
    assert_eq!(keys.len(), 2, "{keys:?}");
    let ends = || redis.ask(&["ZRANGE", &keys[0], "0", "-1", "WITHSCORES"])[1].clone();
    let first = ends();
    // It is renewed as long as it is there, and lost ones are there again.
    until_true("the lease is renewed", PATIENCE, || ends() > first);
    redis.ask(&["FLUSHALL"]);
    until_true("what was lost is there again", PATIENCE, || {
        redis.keys("postern:sessions:").len() == 2
    });
    let (_, line, _) = try_login(8, nodes.address(1), "alice", "secret");
    assert!(line.starts_with("a NO [LIMIT]"), "{line}");

    let killed = nodes.nodes.remove(0);
    killed.signal(Signal::SIGKILL);
    let died = Instant::now();
    drop(killed);
    let (_, line, _) = try_login(8, nodes.address(0), "alice", "secret");
    assert!(line.starts_with("a NO [LIMIT]"), "{line}");
    let left: u64 = redis.ask(&["PTTL", &keys[0]])[0].parse().expect("a number");
    assert!((1..=60_000).contains(&left), "{left}");
    until_true("it is counted no longer", Duration::from_secs(75), || {
        thread::sleep(Duration::from_secs(1));
        let (_, line, _) = try_login(8, nodes.address(0), "alice", "secret");
        line.starts_with("a OK")
    });
    assert!(
        died.elapsed() < Duration::from_secs(65),
        "{:?}",
        died.elapsed()
    );
    nodes.stop();
}

/// A renewal may come between the moment at which a node knows of a session and that at which it is counted in.
#[test]
fn a_session_that_its_node_has_renewed_before_it_was_counted_in_is_counted_once() {
    let redis = Redis::start();
    let limits = "max_sessions_per_user = 1\nmax_sessions_per_user_per_ip = 1";
    let nodes = Nodes::sharing(&redis, limits);
    let (first, line, _) = try_login(7, nodes.address(0), "alice", "secret");
    assert!(line.starts_with("a OK"), "{line}");
    let keys = redis.keys("postern:sessions:");
    let members = || {
        keys.iter()
            .map(|key| redis.ask(&["ZRANGE", key, "0", "-1"]))
    };
    let held: Vec<_> = members().collect();
    assert_eq!(held[0], held[1]);
    let (node, _) = held[0][0].split_once(':').expect("a node and a number");
    drop(first);
    until_true("nobody is counted", PATIENCE, || {
        redis.keys("postern:sessions:").is_empty()
    });

    let mut client = nodes.connect(0, 7);
    client.expect("* OK IMAP4 ready");
    let connected = format!("client connected, client: \"{}\"", client.local_address());
    let line = nodes.nodes[0].wait_for_log(&connected);
    let (_, number) = line.split_once('*').expect("a line of a session");
    let (number, _) = number.split_once(' ').expect("a text behind its number");
    let member = format!("{node}:{number}");
    for key in &keys {
        redis.ask(&["ZADD", key, "+inf", &member]);
    }
    client.send("a LOGIN alice secret");
    let lines = client.lines_until("a ");
    assert!(lines.concat().contains("a OK"), "{lines:?}");
    assert!(members().all(|held| held == [member.clone()]));
    let (_, line, _) = try_login(7, nodes.address(1), "alice", "secret");
    assert!(line.starts_with("a NO [LIMIT]"), "{line}");
    drop(client);
    nodes.stop();
}

/// Somebody else's key in the place of ours is of no use, and no reason to do without the store.
#[test]
fn a_key_of_another_kind_is_told_of_and_costs_nothing_else() {
    let redis = Redis::start();
    let nodes = Nodes::sharing(&redis, "");
    redis.ask(&["LPUSH", "postern:failures:address:127.0.0.42", "x"]);
    let took = guess(nodes.address(0), 3);
    assert!(
        took.iter().all(|took| *took < Duration::from_secs(1)),
        "{took:?}"
    );
    nodes.nodes[0].wait_for_log("WRONGTYPE");
    well(operate(&nodes.nodes[0], &["ban", "127.0.0.7"]));
    until_true("it holds on the other node", PATIENCE, || {
        !nodes.lets_in(1, 7)
    });
    for log in nodes.stop() {
        assert!(!log.contains("counts alone"), "{log}");
    }
}
