//! The protocol between broker and mounter: every message comes back as it went, and no other bytes mean anything.

use keyward_csi_driver::protocol::{
    Found, PAGE, Place, REPLY, REQUEST, Reason, Reply, Request, Socket, Tmpfs, Volume, Which,
};
use proptest::prelude::*;

fn place() -> impl Strategy<Value = Place> {
    ("[A-Za-z0-9-]{1,64}", "[a-z0-9-]{1,63}")
        .prop_map(|(uid, volume)| Place::new(&uid, &volume).expect("valid names"))
}

fn request() -> impl Strategy<Value = Request> {
    let gid = proptest::option::of(any::<u32>());
    prop_oneof![
        (any::<u64>(), any::<u32>(), gid).prop_map(|(bytes, mode, gid)| Request::Create(Tmpfs {
            bytes,
            mode,
            gid
        })),
        (any::<u64>(), place()).prop_map(|(id, place)| Request::Commit(id, place)),
        any::<u64>().prop_map(Request::Discard),
        place().prop_map(Request::Inspect),
        place().prop_map(Request::Reopen),
        (any::<u64>(), any::<u64>()).prop_map(|(id, bytes)| Request::Resize(Which::Detached(id), bytes)),
        (place(), any::<u64>()).prop_map(|(place, bytes)| Request::Resize(Which::At(place), bytes)),
        place().prop_map(Request::Unmount),
        any::<u32>().prop_map(Request::List),
        Just(Request::Listen(Socket::Csi)),
        Just(Request::Listen(Socket::Registration)),
        Just(Request::Named(Socket::Csi)),
        Just(Request::Named(Socket::Registration)),
        (any::<u32>(), any::<u32>()).prop_map(|(uid, gid)| Request::Own { uid, gid }),
    ]
}

fn volume() -> impl Strategy<Value = Volume> {
    (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
        |(device, inode, bytes, read_only, noswap)| Volume { device, inode, read_only, bytes, noswap },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let reason = prop_oneof![Just(Reason::Malformed), Just(Reason::Kernel), Just(Reason::NoSocket)];
    prop_oneof![
        any::<bool>().prop_map(Reply::Done),
        (any::<u64>(), any::<bool>()).prop_map(|(id, noswap)| Reply::Created { id, noswap }),
        Just(Reply::Opened),
        prop_oneof![Just(Found::PodGone), Just(Found::Absent), Just(Found::NotMounted), Just(Found::Foreign)]
            .prop_map(Reply::Found),
        volume().prop_map(|volume| Reply::Found(Found::Ours(volume))),
        (proptest::collection::vec(place(), 0..=PAGE), any::<bool>())
            .prop_map(|(places, more)| Reply::Places(places, more)),
        (reason, any::<i32>()).prop_map(|(reason, errno)| Reply::Refused { reason, errno }),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_went(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Some(request));
    }

    #[test]
    fn a_reply_comes_back_as_it_went(reply in reply()) {
        prop_assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }

    #[test]
    fn bytes_mean_a_request_only_if_they_are_the_one_form_of_it(
        request in request(),
        changes in proptest::collection::vec((0..REQUEST, any::<u8>()), 1..4),
    ) {
        let mut message = request.encode();
        for (at, byte) in changes {
            message[at] = byte;
        }
        if let Some(understood) = Request::decode(&message) {
            prop_assert_eq!(understood.encode(), message);
        }
    }

    #[test]
    fn any_bytes_are_taken_or_not_without_a_panic(message in proptest::collection::vec(any::<u8>(), 0..=REPLY)) {
        prop_assert!(message.len() == REQUEST || Request::decode(&message).is_none());
        prop_assert!(message.len() == REPLY || Reply::decode(&message).is_none());
    }

    #[test]
    fn the_id_in_a_message_must_be_the_one_of_its_names(place in place(), digit in 0usize..64, by in 1u8..16) {
        let mut message = Request::Unmount(place).encode();
        let start = message.windows(5).rposition(|bytes| bytes == b"\x44csi-").unwrap() + 5;
        let old = (message[start + digit] as char).to_digit(16).unwrap();
        let new = char::from_digit((old + u32::from(by)) % 16, 16).unwrap();
        message[start + digit] = new as u8;
        prop_assert_eq!(Request::decode(&message), None);
    }
}
