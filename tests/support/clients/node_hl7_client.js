// Delivers messages with npm node-hl7-client: PORT FILE, a JSON string a line, each answer likewise.
'use strict'

const fs = require('node:fs')
const { Client, Message } = require('node-hl7-client')

const [port, path] = process.argv.slice(2)
const messages = fs.readFileSync(path, 'utf8').split('\n').map(line => JSON.parse(line))
const client = new Client({ host: '127.0.0.1' })
let sent = 0

const connection = client.createConnection({ port: Number(port) }, async response => {
  process.stdout.write(JSON.stringify(response.getMessage().toString()) + '\n')
  await next()
})
connection.on('client.error', error => { console.error(error); process.exit(1) })
connection.on('connect', () => { void next() })

async function next () {
  if (sent === messages.length) {
    await connection.close()
    return
  }
  await connection.sendMessage(new Message({ text: messages[sent++] }))
}
