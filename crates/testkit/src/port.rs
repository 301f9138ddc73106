//! Ports for programs that must be told one. A program that can take port 0 and say what it got is better off doing so.

use anyhow::{Result, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's usual ephemeral range, so that no connect() can take the port between release and use, and above
/// the ports of services.
const FIRST: u16 = 20_000;
const SPAN: u16 = 10_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is held until somebody else is to listen on it.
#[derive(Debug)]
pub struct Reserved {
    listener: TcpListener,
    address: SocketAddr,
}

impl Reserved {
    /// A free port on 127.0.0.1.
    pub fn loopback() -> Result<Reserved> {
        Reserved::on(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// A free port on an address of this machine. Every process starts its search elsewhere, and every call goes on
    /// from the one before, so that two tests rarely meet on a port and never reuse one at once.
    pub fn on(ip: IpAddr) -> Result<Reserved> {
        let start = (std::process::id() as u16).wrapping_mul(97) % SPAN;
        for _ in 0..SPAN {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let offset = (u32::from(start) + u32::from(step)) % u32::from(SPAN);
            if let Ok(listener) = TcpListener::bind((ip, FIRST + offset as u16)) {
                let address = listener.local_addr()?;
                return Ok(Reserved { listener, address });
            }
        }
        bail!("no free port on {ip} in {FIRST}-{}", FIRST + SPAN - 1)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets go of the port: the caller's program listens on it next.
    pub fn release(self) -> SocketAddr {
        drop(self.listener);
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_taken_until_released() {
        let one = Reserved::loopback().unwrap();
        let two = Reserved::loopback().unwrap();
        assert_ne!(one.address(), two.address());
        assert!(TcpListener::bind(one.address()).is_err());
        let address = one.release();
        TcpListener::bind(address).unwrap();
    }
}
