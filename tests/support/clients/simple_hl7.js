// Delivers messages with npm simple-hl7: PORT FILE [each], a JSON string a line. `each`: a connection for each message.
// One at a time, since the client takes no second message before the answer to the first. Where the connection breaks
// or nothing is answered, it connects anew and sends the message again. A line for each answer: {sent, answer}. It goes
// slowly, so that there is a middle of its work.
'use strict'

const fs = require('node:fs')
const hl7 = require('simple-hl7')

const [port, path, how] = process.argv.slice(2)
const messages = fs.readFileSync(path, 'utf8').split('\n').map(line => JSON.parse(line))
const parser = new hl7.Parser({ segmentSeperator: '\r' })
const client = hl7.Server.createTcpClient({ host: '127.0.0.1', port: Number(port), keepalive: how !== 'each' })

function deliver (n) {
  if (n === messages.length) {
    client.close()
    return
  }
  const message = parser.parse(messages[n])
  let over = false
  const again = () => {
    if (over) return
    over = true
    clearTimeout(timer)
    client.close()
    setTimeout(deliver, 50, n)
  }
  const timer = setTimeout(again, 2000)
  client.send(message, (error, answer) => {
    if (error) return again()
    if (over) return
    over = true
    clearTimeout(timer)
    process.stdout.write(JSON.stringify({ sent: message.toString(), answer: answer.toString() }) + '\n')
    setTimeout(deliver, 10, n + 1)
  })
  // The client itself does not see its server hang up.
  client.client?.once('close', again)
}
deliver(0)
