//! What two processes tell each other, as types and nothing else: bodies of the gateway's endpoints, the join token, the
//! records in which admin, gateway and hub hand a join to one another (docs/spec/gateway.md). No clients, no servers.
pub mod gateway;
pub mod join_record;
pub mod join_token;
pub mod log;
pub mod streams;
pub mod urls;
