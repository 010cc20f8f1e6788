//! A real S3 server of a test's own: versitygw over a temporary directory, on loopback. `tests/s3/run.sh` builds it and names it
//! in MUSTER_TEST_VERSITYGW; without that the tests that need it say that they were skipped.
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::store::Store;
use crate::store::backend::Backend;
use crate::store::objects::{Objects, retry};

const BUCKET: &str = "muster-test";
const ACCESS: &str = "test";
const SECRET: &str = "test-secret";

/// Ends with the value.
pub struct Server {
    program: PathBuf,
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// `None` if there is none on this machine; `test` is who asks.
    pub async fn start(test: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("MUSTER_TEST_VERSITYGW").map(PathBuf::from) else {
            println!("SKIP {test}: MUSTER_TEST_VERSITYGW is not set (make test-s3)");
            return None;
        };
        crate::runtime::client::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data").join(BUCKET)).unwrap();
        std::fs::create_dir(dir.path().join("meta")).unwrap();
        // Free a moment ago; the server takes no port 0.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = launch(&program, &dir, port);
        let server = Self { program, dir, port, child };
        server.until_it_answers().await;
        Some(server)
    }

    async fn until_it_answers(&self) {
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("versitygw does not listen on port {}", self.port);
    }

    /// A store in its bucket.
    pub fn store(&self) -> Store {
        let client = AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id(ACCESS)
            .with_secret_access_key(SECRET)
            .with_retry(retry());
        let client = Arc::new(client.build().unwrap());
        let mut objects = Objects::new(client.clone(), "some/prefix");
        objects.signer = Some(client);
        Store { backend: Backend::Objects(objects) }
    }

    /// SIGKILL, and gone when this returns.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again over the same directory.
    pub async fn restart(&mut self) {
        self.child = launch(&self.program, &self.dir, self.port);
        self.until_it_answers().await;
    }

    /// It answers nothing until [`Server::go_on`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// See [`Server::pause`].
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

fn launch(program: &std::path::Path, dir: &TempDir, port: u16) -> Child {
    Command::new(program)
        .args([
            "--access",
            ACCESS,
            "--secret",
            SECRET,
            "--quiet",
            "--port",
            &format!("127.0.0.1:{port}"),
            "posix",
        ])
        .arg("--sidecar")
        .arg(dir.path().join("meta"))
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
