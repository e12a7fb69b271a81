// What others do of the work, with npm node-hl7-server and pdf-lib: PORT WORK FOLDER FLUSH.
//
// WORK is `acknowledged`, `archived` or `documents` (message archived, PDF stamped, archived and dropped); with FLUSH
// `yes` every file is flushed before the answer.

const Events = require('events')
const fs = require('fs/promises')
const path = require('path')
const { Server } = require('node-hl7-server')
const { PDFDocument, StandardFonts, rgb } = require('pdf-lib')

const [port, work, folder, flush] = [Number(process.argv[2]), process.argv[3], process.argv[4], process.argv[5] === 'yes']
let next = 0

async function write (name, content) {
  const file = await fs.open(path.join(folder, name), 'wx')
  try {
    await file.writeFile(content)
    if (flush) await file.datasync()
  } finally {
    await file.close()
  }
}

async function stamped (content, lines) {
  const document = await PDFDocument.load(content)
  const page = document.getPage(0)
  const font = await document.embedFont(StandardFonts.Helvetica)
  page.drawText(lines, { x: 20, y: page.getHeight() - 20, size: 7, lineHeight: 9, font, color: rgb(1, 0, 0) })
  return await document.save()
}

async function carryOut (message) {
  const number = next++
  if (work !== 'acknowledged') await write(`${number}.hl7`, message.toString())
  if (work === 'documents') {
    const lines = `patient_id: ${message.get('PID.3.1').toString()}\npatient_name: ${message.get('PID.5').toString()}`
    const content = await stamped(Buffer.from(message.get('OBX.5.5').toString(), 'base64'), lines)
    await write(`${number}.archived.pdf`, content)
    await write(`${number}.dropped.pdf`, content)
  }
}

const inbound = new Server({ bindAddress: '127.0.0.1' }).createInbound({ port }, async (request, response) => {
  await carryOut(request.getMessage())
  await response.sendResponse('AA')
})

// The library keeps all that a connection has sent and takes a second message for a batch of both. So each message is
// given to it as a connection of its own.
inbound._socket.removeAllListeners('connection')
inbound._socket.on('connection', (socket) => {
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy())
  let parts = []
  socket.on('data', (chunk) => {
    for (let end; (end = endOfFrame(parts, chunk)) !== -1;) {
      const frame = Buffer.concat([...parts, chunk.subarray(0, end)])
      parts = []
      chunk = chunk.subarray(end)
      const one = new Events()
      Object.assign(one, {
        setNoDelay () {}, setEncoding () {}, cork () {}, uncork () {}, destroy () {}, write: (bytes) => socket.write(bytes)
      })
      inbound._onTcpClientConnected(one)
      one.emit('data', frame)
      one.emit('close', false)
    }
    if (chunk.length > 0) parts.push(chunk)
  })
})

/** Where in `chunk` the frame ends that begins in `parts`, or -1. */
function endOfFrame (parts, chunk) {
  const last = parts[parts.length - 1]
  if (last && last[last.length - 1] === 0x1c && chunk[0] === 0x0d) return 1
  const at = chunk.indexOf('\x1c\r')
  return at === -1 ? -1 : at + 2
}
