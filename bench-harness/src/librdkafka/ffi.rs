//! The few functions of librdkafka's C interface that are needed, behind safe types.
//!
//! Owner: `librdkafka`. The library's interface has been stable since 1.0; the version that was loaded is told.
//! Invariants: a handle is destroyed once, by its owner's drop; a message's bytes are only borrowed inside the call
//! that hands them out. Must not: know workloads.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{OnceLock, PoisonError, RwLock};

use crate::error::{BenchError, Result};

type Handle = *mut c_void;

/// `rd_kafka_message_t`.
#[repr(C)]
struct Message {
    error: c_int,
    topic: Handle,
    partition: i32,
    payload: *mut c_void,
    payload_bytes: usize,
    key: *mut c_void,
    key_bytes: usize,
    offset: i64,
    private: *mut c_void,
}

type ConnectCallback =
    unsafe extern "C" fn(c_int, *const libc::sockaddr, c_int, *const c_char, *mut c_void) -> c_int;
type DeliveryCallback = unsafe extern "C" fn(Handle, *const Message, *mut c_void);

const TYPE_PRODUCER: c_int = 0;
const TYPE_CONSUMER: c_int = 1;
const CONF_OK: c_int = 0;
const MSG_F_COPY: c_int = 2;
const PURGE_ALL: c_int = 3;
const ERROR_TEXT_BYTES: usize = 512;
/// The partition that leaves the choice to the library.
pub(crate) const ANY_PARTITION: i32 = -1;
/// Error: the library's queue is full.
pub(crate) const QUEUE_FULL: i32 = -184;
/// Messages taken at once.
const BATCH_MAX: usize = 4_096;
/// Bytes of a delivered message's head that a report keeps.
pub(crate) const HEAD_BYTES: usize = 48;

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, found by name.
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Finds all of them.
            fn find(library: *mut c_void) -> std::result::Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let name = concat!("rd_kafka_", stringify!($name), "\0");
                        // SAFETY: the library is open and the name ends with a zero.
                        let symbol = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
                        if symbol.is_null() {
                            return Err(format!("librdkafka has no {name}"));
                        }
                        // SAFETY: the symbol is a function of this type in every librdkafka since 1.0.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(symbol)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    version_str: fn() -> *const c_char;
    conf_new: fn() -> Handle;
    conf_set: fn(Handle, *const c_char, *const c_char, *mut c_char, usize) -> c_int;
    conf_destroy: fn(Handle);
    conf_set_opaque: fn(Handle, *mut c_void);
    conf_set_dr_msg_cb: fn(Handle, DeliveryCallback);
    conf_set_connect_cb: fn(Handle, ConnectCallback);
    new: fn(c_int, Handle, *mut c_char, usize) -> Handle;
    destroy: fn(Handle);
    topic_new: fn(Handle, *const c_char, Handle) -> Handle;
    topic_destroy: fn(Handle);
    produce: fn(Handle, i32, c_int, *mut c_void, usize, *const c_void, usize, *mut c_void) -> c_int;
    last_error: fn() -> c_int;
    err2str: fn(c_int) -> *const c_char;
    poll: fn(Handle, c_int) -> c_int;
    outq_len: fn(Handle) -> c_int;
    flush: fn(Handle, c_int) -> c_int;
    purge: fn(Handle, c_int) -> c_int;
    message_status: fn(*const Message) -> c_int;
    message_destroy: fn(*mut Message);
    poll_set_consumer: fn(Handle) -> c_int;
    queue_get_consumer: fn(Handle) -> Handle;
    queue_destroy: fn(Handle);
    consume_batch_queue: fn(Handle, c_int, *mut *mut Message, usize) -> isize;
    consumer_close: fn(Handle) -> c_int;
    topic_partition_list_new: fn(c_int) -> Handle;
    topic_partition_list_add: fn(Handle, *const c_char, i32) -> Handle;
    topic_partition_list_set_offset: fn(Handle, *const c_char, i32, i64) -> c_int;
    topic_partition_list_destroy: fn(Handle);
    assign: fn(Handle, Handle) -> c_int;
}

fn api() -> Result<&'static Api> {
    static API: OnceLock<std::result::Result<Api, String>> = OnceLock::new();
    let loaded = API.get_or_init(|| {
        let name = std::env::var("RINGLOG_LIBRDKAFKA").unwrap_or_else(|_| "librdkafka.so.1".into());
        let name = CString::new(name).map_err(|_| "a library name with a zero in it".to_owned())?;
        // SAFETY: the name ends with a zero; what the library runs when it is loaded is the caller's wish.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(format!(
                "{} cannot be loaded; install librdkafka (Debian: librdkafka1) or set RINGLOG_LIBRDKAFKA",
                name.to_string_lossy()
            ));
        }
        Api::find(library)
    });
    loaded.as_ref().map_err(|text| BenchError::Usage(text.clone()))
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the library returns constant strings that end with a zero.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| BenchError::Usage("a zero inside a text".into()))
}

/// The version of the library.
///
/// # Errors
/// When it cannot be loaded.
pub(crate) fn version() -> Result<String> {
    // SAFETY: takes nothing, returns a constant string.
    Ok(text(unsafe { (api()?.version_str)() }))
}

fn check(code: c_int, what: &str) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: takes any code, returns a constant string.
    let why = text(unsafe { (api()?.err2str)(code) });
    Err(BenchError::Usage(format!("librdkafka: {what}: {why}")))
}

/// Makes a client of the settings; `opaque` and `callback` belong to producers.
fn client(kind: c_int, settings: &[(&str, String)], deliveries: *mut c_void) -> Result<Handle> {
    let api = api()?;
    let mut why = [0 as c_char; ERROR_TEXT_BYTES];
    // SAFETY: takes nothing.
    let conf = unsafe { (api.conf_new)() };
    for (key, value) in settings {
        let (key, value) = (c_text(key)?, c_text(value)?);
        // SAFETY: the configuration is ours, the texts end with zeros, the buffer has the stated length.
        let code = unsafe { (api.conf_set)(conf, key.as_ptr(), value.as_ptr(), why.as_mut_ptr(), why.len()) };
        if code != CONF_OK {
            // SAFETY: the configuration is ours and nobody else has it.
            unsafe { (api.conf_destroy)(conf) };
            return Err(BenchError::Usage(format!("librdkafka: {}", text(why.as_ptr()))));
        }
    }
    if kind == TYPE_PRODUCER {
        // SAFETY: the configuration is ours; the pointer outlives the client, which its owner's drop sees to.
        unsafe {
            (api.conf_set_opaque)(conf, deliveries);
            (api.conf_set_dr_msg_cb)(conf, on_delivery);
        }
    }
    if !detours().is_empty() {
        // SAFETY: the configuration is ours; the function lives as long as the program.
        unsafe { (api.conf_set_connect_cb)(conf, on_connect) };
    }
    // SAFETY: on success the configuration belongs to the client; the buffer has the stated length.
    let handle = unsafe { (api.new)(kind, conf, why.as_mut_ptr(), why.len()) };
    if handle.is_null() {
        // SAFETY: on failure the configuration is still ours.
        unsafe { (api.conf_destroy)(conf) };
        return Err(BenchError::Usage(format!("librdkafka: {}", text(why.as_ptr()))));
    }
    Ok(handle)
}

/// Where clients made from now on connect instead of an address that a server advertises.
static DETOURS: RwLock<Vec<(SocketAddr, SocketAddr)>> = RwLock::new(Vec::new());

/// Takes the ways of a relay: (address of the server, address of the relay).
pub(crate) fn set_detours(ways: Vec<(SocketAddr, SocketAddr)>) {
    *DETOURS.write().unwrap_or_else(PoisonError::into_inner) = ways;
}

fn detours() -> Vec<(SocketAddr, SocketAddr)> {
    DETOURS.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Connects a client's socket, by a detour when there is one for the address. Returns 0, also for a connection that is
/// under way, or the error number, as the library wants it.
///
/// # Safety
/// `address` is a socket address of `length` bytes, and `socket` an open, non-blocking socket of its family; the
/// library calls it so.
unsafe extern "C" fn on_connect(
    socket: c_int,
    address: *const libc::sockaddr,
    length: c_int,
    _name: *const c_char,
    _opaque: *mut c_void,
) -> c_int {
    let mut address = address;
    let mut length = length as libc::socklen_t;
    let detour: libc::sockaddr_in;
    // SAFETY: an address begins with its family.
    if c_int::from(unsafe { (*address).sa_family }) == libc::AF_INET
        && length as usize >= size_of::<libc::sockaddr_in>()
    {
        // SAFETY: an address of this family and length is a `sockaddr_in`; it is read without asking for alignment.
        let own = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
        let ip = Ipv4Addr::from(u32::from_be(own.sin_addr.s_addr));
        let server = SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(own.sin_port)));
        let way = detours().into_iter().find(|(known, _)| *known == server);
        if let Some((_, SocketAddr::V4(relay))) = way {
            let s_addr = u32::from(*relay.ip()).to_be();
            detour = libc::sockaddr_in {
                sin_port: relay.port().to_be(),
                sin_addr: libc::in_addr { s_addr },
                ..own
            };
            address = (&raw const detour).cast();
            length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
    }
    // SAFETY: the socket is open and the address has that length.
    if unsafe { libc::connect(socket, address, length) } == 0 {
        return 0;
    }
    let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    if error == libc::EINPROGRESS { 0 } else { error }
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is certainly not in the log.
    NotPersisted,
    /// It may be.
    Open,
    /// It is.
    Persisted,
}

/// A delivery report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    /// The library's error code, 0 for none.
    pub(crate) error: i32,
    /// What became of the record.
    pub(crate) status: Status,
    /// Its offset, negative when the library does not know it.
    pub(crate) offset: i64,
    /// Bytes of key and value.
    pub(crate) bytes: u64,
    /// The first bytes of the value, zeros behind it.
    pub(crate) head: [u8; HEAD_BYTES],
}

type Deliveries = RefCell<Vec<Delivery>>;

/// Keeps what a delivery report says.
///
/// # Safety
/// `opaque` is a `Deliveries` that lives as long as the client; it is only called from inside `poll`, `flush` and
/// `purge` of the thread that owns the producer.
unsafe extern "C" fn on_delivery(_client: Handle, message: *const Message, opaque: *mut c_void) {
    // SAFETY: the library hands out a valid message for the time of the call.
    let report = unsafe { &*message };
    let Ok(api) = api() else { return };
    // SAFETY: the message is valid.
    let status = match unsafe { (api.message_status)(message) } {
        2 => Status::Persisted,
        1 => Status::Open,
        _ => Status::NotPersisted,
    };
    let mut head = [0; HEAD_BYTES];
    let count = report.payload_bytes.min(HEAD_BYTES);
    if !report.payload.is_null() {
        // SAFETY: the payload has `payload_bytes` bytes, `head` has room for `count`.
        unsafe { std::ptr::copy_nonoverlapping(report.payload.cast::<u8>(), head.as_mut_ptr(), count) };
    }
    let bytes = (report.payload_bytes + report.key_bytes) as u64;
    let delivery = Delivery { error: report.error, status, offset: report.offset, bytes, head };
    // SAFETY: see above; the RefCell is not borrowed while the library runs.
    unsafe { &*opaque.cast::<Deliveries>() }.borrow_mut().push(delivery);
}

/// A producing client.
pub(crate) struct Producer {
    api: &'static Api,
    client: Handle,
    topic: Handle,
    deliveries: Box<Deliveries>,
}

// SAFETY: the handles may be used from any thread, and this type is owned by one at a time.
unsafe impl Send for Producer {}

impl Producer {
    /// A producer for one topic.
    ///
    /// # Errors
    /// When the library or a setting is refused.
    pub(crate) fn new(settings: &[(&str, String)], topic: &str) -> Result<Self> {
        let deliveries: Box<Deliveries> = Box::default();
        let opaque = std::ptr::from_ref::<Deliveries>(&deliveries).cast_mut().cast::<c_void>();
        let client = client(TYPE_PRODUCER, settings, opaque)?;
        let mut producer = Self { api: api()?, client, topic: std::ptr::null_mut(), deliveries };
        let name = c_text(topic)?;
        // SAFETY: the client is open and the name ends with a zero; no configuration of its own.
        producer.topic = unsafe { (producer.api.topic_new)(client, name.as_ptr(), std::ptr::null_mut()) };
        if producer.topic.is_null() {
            return Err(BenchError::Usage(format!("librdkafka: no topic {topic}")));
        }
        Ok(producer)
    }

    /// Queues a copy of a record; the error is the library's code.
    pub(crate) fn produce(&self, partition: i32, key: &[u8], value: &[u8]) -> std::result::Result<(), i32> {
        let key_pointer = if key.is_empty() { std::ptr::null() } else { key.as_ptr().cast() };
        // SAFETY: topic and client are open; the library copies value and key before it returns, and never writes.
        let code = unsafe {
            (self.api.produce)(
                self.topic,
                partition,
                MSG_F_COPY,
                value.as_ptr().cast_mut().cast(),
                value.len(),
                key_pointer,
                key.len(),
                std::ptr::null_mut(),
            )
        };
        // SAFETY: takes nothing; tells the error of this thread's last call.
        if code == 0 { Ok(()) } else { Err(unsafe { (self.api.last_error)() }) }
    }

    /// Lets the library report deliveries, at most `timeout_ms`, and hands them out.
    pub(crate) fn poll(&self, timeout_ms: i32, mut each: impl FnMut(&Delivery)) {
        // SAFETY: the client is open.
        unsafe { (self.api.poll)(self.client, timeout_ms) };
        let mut reports = self.deliveries.borrow_mut();
        reports.iter().for_each(&mut each);
        reports.clear();
    }

    /// Records and events that the library still holds.
    pub(crate) fn waiting(&self) -> usize {
        // SAFETY: the client is open.
        usize::try_from(unsafe { (self.api.outq_len)(self.client) }).unwrap_or(0)
    }

    /// Gives up all records that were not delivered; they are reported by the next polls.
    pub(crate) fn give_up(&self) {
        // SAFETY: the client is open.
        unsafe { (self.api.purge)(self.client, PURGE_ALL) };
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.give_up();
        // SAFETY: both handles are ours and used no more; the deliveries outlive them.
        unsafe {
            (self.api.flush)(self.client, 1_000);
            if !self.topic.is_null() {
                (self.api.topic_destroy)(self.topic);
            }
            (self.api.destroy)(self.client);
        }
    }
}

/// A consuming client with an assignment.
pub(crate) struct Consumer {
    api: &'static Api,
    client: Handle,
    queue: Handle,
    batch: Vec<*mut Message>,
}

// SAFETY: the handles may be used from any thread, and this type is owned by one at a time; `batch` is empty between
// calls.
unsafe impl Send for Consumer {}

impl Consumer {
    /// A consumer of partitions of one topic from given offsets on.
    ///
    /// # Errors
    /// When the library or a setting is refused.
    pub(crate) fn new(settings: &[(&str, String)], topic: &str, assignment: &[(i32, i64)]) -> Result<Self> {
        let name = c_text(topic)?;
        let client = client(TYPE_CONSUMER, settings, std::ptr::null_mut())?;
        let api = api()?;
        // SAFETY: the client is open; the list is made, filled, assigned (which copies it) and destroyed here.
        let (code, queue) = unsafe {
            (api.poll_set_consumer)(client);
            let list = (api.topic_partition_list_new)(assignment.len() as c_int);
            for (partition, offset) in assignment {
                (api.topic_partition_list_add)(list, name.as_ptr(), *partition);
                (api.topic_partition_list_set_offset)(list, name.as_ptr(), *partition, *offset);
            }
            let code = (api.assign)(client, list);
            (api.topic_partition_list_destroy)(list);
            (code, (api.queue_get_consumer)(client))
        };
        let consumer = Self { api, client, queue, batch: vec![std::ptr::null_mut(); BATCH_MAX] };
        check(code, "assign")?;
        Ok(consumer)
    }

    /// Takes what has arrived, waiting at most `timeout_ms`, and hands out each value; returns the last error.
    pub(crate) fn poll(&mut self, timeout_ms: i32, mut each: impl FnMut(&[u8])) -> Option<i32> {
        // SAFETY: the queue is open and the array has the stated length.
        let count = unsafe {
            (self.api.consume_batch_queue)(self.queue, timeout_ms, self.batch.as_mut_ptr(), BATCH_MAX)
        };
        let mut last_error = None;
        for message in &self.batch[..usize::try_from(count).unwrap_or(0)] {
            // SAFETY: the library wrote that many valid messages, which are ours until they are destroyed.
            let record = unsafe { &**message };
            if record.error != 0 {
                last_error = Some(record.error);
            } else if record.payload.is_null() {
                each(&[]);
            } else {
                // SAFETY: the payload has that many bytes until the message is destroyed below.
                each(unsafe {
                    std::slice::from_raw_parts(record.payload.cast::<u8>(), record.payload_bytes)
                });
            }
            // SAFETY: ours, and used no more.
            unsafe { (self.api.message_destroy)(*message) };
        }
        last_error
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: both handles are ours and used no more.
        unsafe {
            (self.api.consumer_close)(self.client);
            (self.api.queue_destroy)(self.queue);
            (self.api.destroy)(self.client);
        }
    }
}
