// Delivers messages with npm @medplum/hl7: PORT FILE WINDOW, a JSON string a line; WINDOW messages are under way at once
// over one connection. The client finds an answer's message by MSA-2; of several answers that come in one read it
// takes the first, and the others time out and their messages are sent again. Where the connection breaks, it makes a
// new one. A line for each answer: {sent, answer}. It goes slowly, so that there is a middle of its work.
'use strict'

const fs = require('node:fs')
const { Hl7Message } = require('@medplum/core')
const { Hl7Client } = require('@medplum/hl7')

const [port, path, window] = process.argv.slice(2)
const messages = fs.readFileSync(path, 'utf8').split('\n').map(line => JSON.parse(line))
const client = new Hl7Client({ host: '127.0.0.1', port: Number(port), keepAlive: true, connectTimeout: 2000 })
client.addEventListener('error', () => {})
const pause = time => new Promise(resolve => setTimeout(resolve, time))
let next = 0

async function deliver () {
  while (next < messages.length) {
    const message = Hl7Message.parse(messages[next++])
    for (;;) {
      await pause(5)
      try {
        const answer = await client.sendAndWait(message, { timeoutMs: 1000 })
        process.stdout.write(JSON.stringify({ sent: message.toString(), answer: answer.toString() }) + '\n')
        break
      } catch {
        await pause(20)
      }
    }
  }
}

Promise.all(Array.from({ length: Number(window) }, deliver)).then(() => client.close())
