//! A pod's point of view, for check.sh: serves or fetches one line by TCP.
//!
//!     probe serve PORT          answer every connection with "hello from NAME"
//!     probe get HOST:PORT       print what HOST answers
//!     probe id                  print the user and group it runs as
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

fn serve(port: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    println!("serving");
    for connection in listener.incoming() {
        let _ = writeln!(connection?, "hello from {name}");
    }
    Ok(())
}

fn get(address: &str) -> std::io::Result<()> {
    let address = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let mut answer = String::new();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(())
}

fn id() -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|l| l.starts_with("Uid") || l.starts_with("Gid") || l.starts_with("Cap")) {
        println!("{line}");
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port),
        ["get", address] => get(address),
        ["id"] => id(),
        _ => Err(std::io::Error::other("usage: probe serve PORT | get HOST:PORT | id")),
    }
}
