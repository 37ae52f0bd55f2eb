//! Binds the loop's sockets before its thread starts, so that its owner learns of an error.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    eventfd::EventFd,
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use super::{
    listeners::{RECEIVE_BUFFER, bind_udp, prepared},
    token::Token,
};

/// The interval of the snapshot, the budget, and the search for overdue connections.
const TICK: Duration = Duration::from_secs(1);

/// The sockets of the loop.
pub(super) struct Bound {
    pub(super) epoll: Epoll,
    pub(super) timer: TimerFd,
    pub(super) listeners: Vec<UdpSocket>,
    pub(super) addrs: Vec<SocketAddr>,
}

impl Bound {
    pub(super) fn bind(listen: &[SocketAddr], mut passed: Vec<UdpSocket>, waker: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(waker, EpollEvent::new(EpollFlags::EPOLLIN, Token::Waker.encode()))?;
        // This timer is set once. A timeout of the epoll would be set again on each wait, which is every few packets.
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(TICK)), TimerSetTimeFlags::empty())?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, Token::Timer.encode()))?;
        let mut listeners = Vec::new();
        for (index, addr) in (0..=u8::MAX).zip(listen) {
            let of_family = passed
                .iter()
                .position(|socket| socket.local_addr().is_ok_and(|passed| passed.is_ipv4() == addr.is_ipv4()));
            let socket = match of_family {
                Some(index) => prepared(passed.remove(index))?,
                None => bind_udp(*addr, Some(RECEIVE_BUFFER))?,
            };
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(index).encode()))?;
            listeners.push(socket);
        }
        if !passed.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a passed socket is of no configured family"));
        }
        let addrs = listeners.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        Ok(Self { epoll, timer, listeners, addrs })
    }
}
