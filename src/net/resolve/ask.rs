//! One question, put to the servers in their order until one answers it.
//!
//! hickory's `Resolver` is not used: it answers `localhost` and 127.in-addr.arpa by itself, gives the
//! whole time to the first server that is silent, and hides what an answer held. Its UDP and TCP
//! clients are: random ports and ids, answers that do not fit the question ignored.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Message, Query, ResponseCode,
};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::lookup::Failure;

/// How often each server is asked, unless it says that it cannot answer.
const ROUNDS: u32 = 2;

/// Longest wait for a server before the next one is asked as well, in the first round.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The sockets of questions that are asked for the same purpose: so many at once, and who comes later
/// waits within his own time. Clients, who decide whose name is looked up, cannot use up the others.
pub(super) struct Sockets(Semaphore);

/// Names of clients.
pub(super) static FOR_CLIENTS: Sockets = Sockets(Semaphore::const_new(MOST_FOR_CLIENTS));

/// Backends and auth servers.
pub(super) static FOR_HOSTS: Sockets = Sockets(Semaphore::const_new(MOST_FOR_HOSTS));

pub(super) const MOST_FOR_CLIENTS: usize = 512;
const MOST_FOR_HOSTS: usize = 64;

/// Asks `servers` one after another until `deadline`. The answer's code is NOERROR or NXDOMAIN.
///
/// A server that fails is followed by the next at once, one that is silent after a pause, during and
/// after which its answer still counts.
pub(super) async fn ask(
    servers: &[SocketAddr],
    question: &Query,
    deadline: Instant,
    sockets: &'static Sockets,
) -> Result<Message, Failure> {
    match timeout_at(deadline, ask_in_turn(servers, question, deadline, sockets)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::TimedOut),
    }
}

async fn ask_in_turn(
    servers: &[SocketAddr],
    question: &Query,
    deadline: Instant,
    sockets: &'static Sockets,
) -> Result<Message, Failure> {
    let limit = deadline.saturating_duration_since(Instant::now());
    let turns = u32::try_from(servers.len())
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    let pause = LONGEST_PAUSE.min(limit / turns);
    let mut asked = JoinSet::new();
    let mut failed: Vec<SocketAddr> = Vec::new();
    let mut failure = Failure::TimedOut;
    for round in 0..ROUNDS {
        for server in servers {
            if failed.contains(server) {
                continue;
            }
            let (server, question) = (*server, question.clone());
            asked.spawn(async move {
                // Never closed, so there is one in the end.
                let _one = sockets.0.acquire().await;
                (server, ask_server(server, question, limit).await)
            });
            let next = Instant::now() + pause * (round + 1);
            while let Ok(Some(Ok((who, answer)))) = timeout_at(next, asked.join_next()).await {
                match answer {
                    Ok(message) => return Ok(message),
                    Err(its_failure) => failure = its_failure,
                }
                failed.push(who);
                if who == server {
                    break;
                }
            }
        }
    }
    while let Some(ended) = asked.join_next().await {
        match ended {
            Ok((_, Ok(message))) => return Ok(message),
            Ok((_, Err(its_failure))) => failure = its_failure,
            Err(panicked) => failure = Failure::Thread(panicked.to_string()),
        }
    }
    Err(failure)
}

async fn ask_server(
    server: SocketAddr,
    question: Query,
    limit: Duration,
) -> Result<Message, Failure> {
    // What runs in the background for this question ends with its provider.
    let provider = ConnectedUdp::default();
    let failed = |error: NetError| match error {
        NetError::Timeout => Failure::TimedOut,
        error => Failure::Server(server, error.to_string()),
    };
    let mut response = over_udp(server, &question, limit, &provider)
        .await
        .map_err(failed)?;
    if response.truncation {
        response = over_tcp(server, &question, limit, &provider)
            .await
            .map_err(failed)?;
    }
    let message = response.into_message();
    if message.truncation || message.queries.as_slice() != [question] {
        return Err(Failure::Server(server, "malformed answer".to_owned()));
    }
    match message.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(Failure::Server(server, code.to_string())),
    }
}

async fn over_udp(
    server: SocketAddr,
    question: &Query,
    limit: Duration,
    provider: &ConnectedUdp,
) -> Result<DnsResponse, NetError> {
    let mut client = UdpClientStream::builder(server, provider.clone())
        .with_timeout(Some(limit))
        .with_max_retries(1)
        .build();
    client.send_message(request(question)).first_answer().await
}

async fn over_tcp(
    server: SocketAddr,
    question: &Query,
    limit: Duration,
    provider: &ConnectedUdp,
) -> Result<DnsResponse, NetError> {
    let client = TcpClientStream::exchange(server, None, limit, None, provider.clone()).await?;
    client.send(request(question)).first_answer().await
}

/// Without EDNS, like nginx's: the answers are small, and old servers choke on it.
fn request(question: &Query) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.use_edns = false;
    DnsRequest::from_query(question.clone(), options)
}

/// Tokio's sockets, the UDP ones connected: so a port where nobody listens is an error at once
/// instead of silence.
#[derive(Clone, Default)]
struct ConnectedUdp(TokioRuntimeProvider);

type Bound<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for ConnectedUdp {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = UdpSocket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Bound<Self::Tcp> {
        self.0.connect_tcp(server, local, limit)
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Bound<UdpSocket> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(socket)
        })
    }
}
