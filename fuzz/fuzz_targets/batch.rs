//! Batches over any bytes: the parts are slices in order, none of them holds a second message, the answer reads back.
#![no_main]

use hl7::batch::{self, Batch};
use hl7::charset::Encoding;
use libfuzzer_sys::fuzz_target;

const ENCODINGS: [Encoding; 3] = [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32Be];

fuzz_target!(|data: &[u8]| {
    let [choice, body @ ..] = data else { return };
    let encoding = ENCODINGS[usize::from(*choice) % ENCODINGS.len()];
    let (headers, messages) = match batch::split_in(body, encoding) {
        Batch::Single | Batch::TooMany { .. } => return,
        Batch::Headed { file_header, batch_header, messages } => {
            assert!(file_header.is_some() || batch_header.is_some());
            ((file_header, batch_header), messages)
        }
        Batch::Several(messages) => {
            assert!(messages.len() > 1);
            ((None, None), messages)
        }
    };
    let mut end = body.as_ptr() as usize;
    for message in &messages {
        assert!(message.as_ptr() as usize >= end, "parts overlap or stand out of order");
        end = message.as_ptr() as usize + message.len();
        assert_eq!(batch::split_in(message, encoding), Batch::Single);
    }
    let answers = vec![b"MSH|^~\\&|A\rMSA|AA|1\r".to_vec(); messages.len().max(1)];
    let answer = batch::answer(headers.0, headers.1, &answers, "ID", "TIME");
    let Batch::Headed { batch_header, messages, .. } = batch::split(&answer) else {
        panic!("an answer is a batch")
    };
    assert!(batch_header.is_some());
    assert_eq!(messages.len(), answers.len());
});
