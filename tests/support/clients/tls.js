// Delivers over TLS with Node's tls: PORT CA VERSION MESSAGES [CERTIFICATE KEY]. MESSAGES holds JSON strings, one a line;
// prints each answer likewise. Ends with 1 and the error when there is none.
'use strict';
const fs = require('fs');
const tls = require('tls');

const [port, ca, version, messages, certificate, key] = process.argv.slice(2);
const lines = fs.readFileSync(messages, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
const fail = (error) => {
  console.error(String(error));
  process.exit(1);
};
const read = (path) => path && fs.readFileSync(path);
let heard = Buffer.alloc(0);
let answered = 0;
const send = () => socket.write(Buffer.concat([Buffer.from([11]), Buffer.from(lines[answered]), Buffer.from([28, 13])]));
const socket = tls.connect(
  { port, host: '127.0.0.1', servername: 'localhost', ca: read(ca), minVersion: version, maxVersion: version,
    cert: read(certificate), key: read(key) },
  send,
);
socket.setTimeout(20000, () => fail('time is up'));
socket.on('error', fail);
socket.on('close', () => (answered < lines.length ? fail('closed') : process.exit(0)));
socket.on('data', (chunk) => {
  heard = Buffer.concat([heard, chunk]);
  for (let end = heard.indexOf('\x1c\r'); end >= 0; end = heard.indexOf('\x1c\r')) {
    console.log(JSON.stringify(heard.subarray(1, end).toString()));
    heard = heard.subarray(end + 2);
    answered += 1;
    if (answered < lines.length) send();
    else socket.end();
  }
});
